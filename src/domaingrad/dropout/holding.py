"""Optimisers that leave dropped weights where they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .layers import Target
from .masking import Mask


class Holding:
    """Puts dropped weights back after each step of an optimiser, by its own step hooks.

    Args:
        targets: the masked weights.
        masks: what is kept of each.
        of_gradients: zero their gradients before each step, too; times the mask's scale.
    """

    def __init__(
        self, targets: Sequence[Target], masks: Sequence[Mask], of_gradients: bool = False
    ) -> None:
        self._targets = targets
        self._masks = masks
        self._of_gradients = of_gradients
        self._optimizers: list[Optimizer] = []
        self._handles: list[Any] = []
        self._before: dict[int, Tensor] = {}  # memory that is used again from step to step

    def missing(self) -> list[str]:
        """The names of the masked weights that no held optimiser trains."""
        trained = {id(p) for optimizer in self._optimizers for p in _parameters(optimizer)}
        return [t.name for t in self._targets if id(t.parameter) not in trained]

    def hold(self, optimizer: Optimizer) -> None:
        """Hold an optimiser.

        Raises:
            TypeError, ValueError: no optimiser of PyTorch, or one that trains no masked weight.
        """
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"hold expects a torch.optim.Optimizer; found a {type(optimizer).__name__}."
            )
        trained = {id(p) for p in _parameters(optimizer)}
        if trained.isdisjoint(id(target.parameter) for target in self._targets):
            raise ValueError(
                "the optimizer trains none of the masked weights; give the one that trains this "
                "model."
            )
        self._optimizers.append(optimizer)
        self._handles += [
            optimizer.register_step_pre_hook(self._note),
            optimizer.register_step_post_hook(self._put_back),
        ]

    def release(self) -> None:
        """Let go of all optimisers."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._optimizers.clear()
        self._before.clear()

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, which hold no optimiser."""
        return {**self.__dict__, "_optimizers": [], "_handles": [], "_before": {}}

    @torch.no_grad()
    def _note(self, optimizer: Optimizer, *_: Any) -> None:
        # Also where nothing is dropped yet: a closure may choose within the optimiser's step.
        for index, weight in self._trained_by(optimizer):
            before = self._before.get(index)
            if before is None or before.dtype != weight.dtype or before.device != weight.device:
                self._before[index] = weight.clone()
            else:
                before.copy_(weight)
            gradient = self._targets[index].parameter.grad
            if self._of_gradients and gradient is not None:
                gradient.copy_(self._masks[index](gradient))

    @torch.no_grad()
    def _put_back(self, optimizer: Optimizer, *_: Any) -> None:
        for index, weight in self._trained_by(optimizer):
            kept = self._masks[index].kept
            if kept is not None:
                torch.where(kept.to(weight.device), weight, self._before[index], out=weight)

    def _trained_by(self, optimizer: Optimizer) -> list[tuple[int, Tensor]]:
        trained = {id(p) for p in _parameters(optimizer)}
        return [
            (index, target.parameter.data)
            for index, target in enumerate(self._targets)
            if id(target.parameter) in trained
        ]


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]
