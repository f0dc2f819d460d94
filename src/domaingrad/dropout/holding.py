"""Optimisers that leave dropped weights where they are."""

from __future__ import annotations

from collections.abc import Sequence, Set
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
    """

    def __init__(self, targets: Sequence[Target], masks: Sequence[Mask]) -> None:
        self._targets = targets
        self._masks = masks
        self._handles: list[Any] = []
        self._before: dict[int, Tensor] = {}  # memory that is used again from step to step

    @property
    def any(self) -> bool:
        """Whether an optimiser is held."""
        return bool(self._handles)

    def hold(self, optimizer: Optimizer) -> None:
        """Hold an optimiser.

        Raises:
            TypeError, ValueError: no optimiser of PyTorch, or one that trains no masked weight.
        """
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"hold expects a torch.optim.Optimizer; found a {type(optimizer).__name__}."
            )
        trained = frozenset(id(p) for group in optimizer.param_groups for p in group["params"])
        if not any(id(target.parameter) in trained for target in self._targets):
            raise ValueError(
                "the optimizer trains none of the masked weights; give the one that trains this "
                "model."
            )
        self._handles += [
            optimizer.register_step_pre_hook(lambda *_: self._note(trained)),
            optimizer.register_step_post_hook(lambda *_: self._put_back(trained)),
        ]

    def release(self) -> None:
        """Let go of all optimisers."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._before.clear()

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, which hold no optimiser."""
        return {**self.__dict__, "_handles": [], "_before": {}}

    @torch.no_grad()
    def _note(self, trained: Set[int]) -> None:
        for index, (target, mask) in enumerate(zip(self._targets, self._masks, strict=True)):
            if id(target.parameter) not in trained or mask.kept is None:
                continue
            before = self._before.get(index)
            if before is None or before.device != target.parameter.device:
                self._before[index] = target.parameter.clone()
            else:
                before.copy_(target.parameter)

    @torch.no_grad()
    def _put_back(self, trained: Set[int]) -> None:
        for index, (target, mask) in enumerate(zip(self._targets, self._masks, strict=True)):
            if id(target.parameter) in trained and mask.kept is not None:
                weight = target.parameter.data
                torch.where(mask.kept.to(weight.device), weight, self._before[index], out=weight)
