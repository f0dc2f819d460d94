"""One step: the domains taken so far, and what the rule makes of them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from warnings import warn

import torch
from torch import Tensor, nn

from domaingrad.rules import Rule
from domaingrad.rules.statistics import accumulation_dtype

from .accumulators import accumulator_for
from .distributed.shards import Shards, is_spread
from .errors import AgreementError, NonFiniteGradientWarning

USER = 5
"""Frames from a warning here up to the line that called ``combine`` or ``backward``."""


class Step:
    """Takes the gradients of one domain after the other and adds the update to ``.grad``.

    Args:
        parameters: what is trained in this step.
        rule: what to do with the domains' gradients.
        scale: the loss scale to undo before the rule and to put back after.
        non_finite_expected: whether somebody (a GradScaler) looks for non-finite gradients.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        rule: Rule,
        scale: float,
        non_finite_expected: bool,
    ) -> None:
        self.parameters = parameters
        self.names: list[Hashable] = []
        self._rule = rule
        self._scale = scale
        self._non_finite_expected = non_finite_expected
        self._shards = Shards.of(parameters)
        self._accumulator = accumulator_for(rule, len(parameters), self._shards)
        self._finite: list[Tensor] = []

    @property
    def listed(self) -> str:
        """The names of the domains taken so far."""
        return ", ".join(map(repr, self.names))

    def take(self, name: Hashable, gradients: list[Tensor | None], weight: float) -> None:
        """Fold in one domain. The gradients become ours to overwrite, the list is emptied.

        Raises:
            AgreementError: no parameter has a gradient.
            TypeError: a gradient is sparse.
        """
        if all(gradient is None for gradient in gradients):
            raise AgreementError(
                f"no backward in the block of domain {name!r} reached a parameter of the model; "
                f"call loss.backward() inside `with agree.domain({name!r})`."
            )
        if any(gradient is not None and gradient.is_sparse for gradient in gradients):
            raise TypeError(
                f"domain {name!r} has a sparse gradient; agreement compares dense ones. Make the "
                f"embedding with sparse=False."
            )
        extremes: list[Tensor] = []
        self._accumulator.fold(self._prepared(gradients, weight / self._scale, extremes))
        self._finite.append(_all_finite(extremes))
        self.names.append(name)

    def _prepared(
        self, gradients: list[Tensor | None], factor: float, extremes: list[Tensor]
    ) -> Iterator[Tensor | None]:
        """Each gradient in turn, checked, scaled and let go: one visit while in the cache."""
        for index, gradient in enumerate(gradients):
            gradients[index] = None
            if gradient is None:
                yield None
            else:
                if is_spread(gradient):
                    gradient = gradient.to_local().reshape(-1)  # noqa: PLW2901
                extremes += _extremes(gradient)
                prepared = _own(gradient).to(accumulation_dtype(gradient.dtype))
                yield prepared if factor == 1.0 else prepared.mul_(factor)

    def add_update(self) -> None:
        """Add the rule's update to ``.grad``.

        Raises:
            ValueError: fewer domains than the rule needs.
        """
        self._rule.require_domains(len(self.names), f" ({self.listed})")
        updates = self._accumulator.updates()
        self._keep_non_finite_visible(updates)
        for parameter, update in zip(self.parameters, self._restored(updates), strict=True):
            if update is not None:
                if self._scale != 1.0:
                    update.mul_(self._scale)
                accumulate(parameter, update)

    def _restored(self, updates: list[Tensor | None]) -> list[Tensor | None]:
        """As the parameters are spread."""
        if self._shards is None:
            return updates
        return [
            None if update is None else self._shards.restored(index, update)
            for index, update in enumerate(updates)
        ]

    def _keep_non_finite_visible(self, updates: Sequence[Tensor | None]) -> None:
        seen = torch.stack(self._finite)
        if self._shards is not None:
            seen = self._shards.over((~seen).int(), "max") == 0
        finite = seen.tolist()
        if all(finite):
            return
        named = [name for name, ok in zip(self.names, finite, strict=True) if not ok]
        if not self._non_finite_expected:
            warn_of_non_finite(named, stacklevel=USER + 1)
        present = [update for update in updates if update is not None]
        if _all_finite([value for update in present for value in _extremes(update)]):
            for update in present:
                update.fill_(math.nan)


def warn_of_non_finite(names: Sequence[Hashable], stacklevel: int) -> None:
    """Say whose gradients are not finite."""
    warn(
        f"non-finite gradient in domain {', '.join(map(repr, names))}; it is left visible in "
        f".grad. Skip the step, clip, or lower the learning rate.",
        NonFiniteGradientWarning,
        stacklevel=stacklevel,
    )


def _own(gradient: Tensor) -> Tensor:
    """The gradient itself; a copy where others share its storage, as in DDP's bucket views."""
    alone = gradient.untyped_storage().nbytes() == gradient.numel() * gradient.element_size()
    return gradient.detach() if alone else gradient.detach().clone()


def _extremes(tensor: Tensor) -> tuple[Tensor, ...]:
    """The smallest and the largest component, of which one is not finite if any component is."""
    return torch.aminmax(tensor) if tensor.numel() > 0 else ()


def _all_finite(extremes: Sequence[Tensor]) -> Tensor:
    if not extremes:
        return torch.tensor(True)
    return torch.stack([value.to(extremes[0].device) for value in extremes]).isfinite().all()


def accumulate(parameter: nn.Parameter, update: Tensor) -> None:
    """Add to ``.grad``."""
    update = update.to(parameter.dtype)
    if parameter.grad is None:
        parameter.grad = update
    else:
        parameter.grad.add_(update)
