"""What becomes of the domains' gradients: the rule's update."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from domaingrad.rules import ElementwiseRule, GramianRule, Proposal, Rule
from domaingrad.rules.statistics import accumulation_dtype

from ..reduction import Kernels, Reduction
from .gradients import UnitGradients


class Scratch:
    """Memory for one tile at a time, used again from step to step."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def take(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """A tensor with any content; the next call may return the same memory."""
        size = math.prod(shape)
        buffer = self._buffers.get((device, dtype))
        if buffer is None or buffer.numel() < size:
            buffer = torch.empty(size, dtype=dtype, device=device)
            self._buffers[device, dtype] = buffer
        return buffer[:size].view(tuple(shape))


class Agreement(Protocol):
    """A receiver that applies a rule."""

    non_finite: set[int]
    """The domains with a non-finite gradient."""

    def receive(self, index: int, gradients: UnitGradients) -> Tensor | None:
        """Take the gradients of one parameter."""

    def finish(self) -> dict[int, Tensor]:
        """The updates that had to wait for the whole model."""


class ElementwiseAgreement:
    """Applies an element-wise rule tile by tile, while the gradients are hot.

    Args:
        rule: the rule.
        factors: one a domain, on its gradients; ``None`` for ones.
        scale: on the update.
        scratch: memory for the tiles.
        kernels: how the rule runs.
    """

    def __init__(
        self,
        rule: ElementwiseRule,
        factors: Tensor | None,
        scale: float,
        scratch: Scratch,
        kernels: Kernels,
    ) -> None:
        self.non_finite: set[int] = set()
        self._rule = rule
        self._reduction = Reduction(rule, kernels)
        self._factors = factors
        self._scale = scale
        self._scratch = scratch
        self._waiting: dict[int, Proposal] = {}

    def receive(self, index: int, gradients: UnitGradients) -> Tensor | None:
        """Apply the rule at once, unless its scale is over the whole model."""
        proposal = self._proposed(gradients)
        if self._rule.scope == "model":
            self._waiting[index] = proposal
            return None
        return self._scaled(self._rule.finish_alone(proposal))

    def finish(self) -> dict[int, Tensor]:
        """The updates of a rule whose scale is over the whole model."""
        if not self._waiting:
            return {}
        # In the order of the parameters, so that random rules do not depend on the way back.
        waiting = sorted(self._waiting.items())
        updates = self._rule.finish_together([proposal for _, proposal in waiting])
        self._waiting.clear()
        return {
            index: self._scaled(update) for (index, _), update in zip(waiting, updates, strict=True)
        }

    def _scaled(self, update: Tensor) -> Tensor:
        return update if self._scale == 1.0 else update.mul_(self._scale)

    def _proposed(self, gradients: UnitGradients) -> Proposal:
        shape, count = gradients.shape, gradients.count
        parts = []
        for tile in gradients.tiles():
            size = (min(tile.stop, shape[0]) - tile.start, *shape[1:]) if shape else ()
            stack = self._scratch.take((count, *size), gradients.dtype, gradients.device)
            gradients.fill(tile, stack)
            flat = stack.view(count, math.prod(size))
            part, total = self._reduction.propose(flat, self._factors)
            if self._is_not_finite(total):
                gradients.fill(tile, stack)
                self._note(flat)
                if self.non_finite and part.update.isfinite().all():
                    part.update.fill_(math.nan)  # Visible whatever the rule masks.
            parts.append(part)
        return _joined(parts, shape)

    def _is_not_finite(self, total: Tensor) -> bool:
        return not math.isfinite(total.item())

    def _note(self, flat: Tensor) -> None:
        """Note whose gradients are not finite."""
        finite = flat.isfinite().all(1).tolist()
        self.non_finite.update(unit for unit, ok in enumerate(finite) if not ok)


def _joined(parts: Sequence[Proposal], shape: Sequence[int]) -> Proposal:
    """One proposal for the whole tensor."""
    updates = [part.update for part in parts]
    tallies = [part.tally for part in parts if part.tally is not None]
    masks = [part.mask for part in parts if part.mask is not None]
    return Proposal(
        _one(updates).view(tuple(shape)),
        torch.stack(tallies).sum(0) if tallies else None,
        _one(masks).view(tuple(shape)) if masks else None,
    )


def _one(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


class GramianAgreement:
    """Keeps the K gradients of every parameter, and combines them by a Gramian rule at the end.

    Args:
        rule: the rule.
        factors: one a domain, on its gradients; ``None`` for ones.
        scale: on the update.
    """

    def __init__(self, rule: GramianRule, factors: Tensor | None, scale: float) -> None:
        self.non_finite: set[int] = set()
        self._rule = rule
        self._factors = factors
        self._scale = scale
        self._stacks: dict[int, Tensor] = {}

    def receive(self, index: int, gradients: UnitGradients) -> Tensor | None:
        """Keep the gradients."""
        stack = gradients.stack()
        stack = stack.to(accumulation_dtype(stack.dtype))
        if self._factors is not None:
            stack.mul_(self._factors.to(stack).view(-1, *(1,) * (stack.ndim - 1)))
        self._stacks[index] = stack
        return None

    def finish(self) -> dict[int, Tensor]:
        """One weighted sum for every parameter."""
        indices = sorted(self._stacks)
        stacks = [self._stacks.pop(index) for index in indices]
        updates = dict(zip(indices, self._rule.updates(stacks) if stacks else [], strict=True))
        if all(math.isfinite(update.sum().item()) for update in updates.values()):
            return {index: update.mul_(self._scale) for index, update in updates.items()}
        for stack in stacks:
            finite = stack.flatten(1).isfinite().all(1).tolist()
            self.non_finite.update(unit for unit, ok in enumerate(finite) if not ok)
        return updates


def agreement_of(
    rule: Rule,
    parameters: Sequence[nn.Parameter],
    factors: Sequence[float],
    scale: float,
    scratch: Scratch,
    kernels: Kernels,
) -> Agreement:
    """The receiver for the rule's family."""
    on_gradients = None
    if any(factor != 1.0 for factor in factors):
        on_gradients = torch.tensor(factors, device=parameters[0].device, dtype=torch.float64)
    match rule:
        case ElementwiseRule():
            return ElementwiseAgreement(rule, on_gradients, scale, scratch, kernels)
        case GramianRule():
            return GramianAgreement(rule, on_gradients, scale)
        case _:
            raise TypeError(
                f"expected a rule derived from ElementwiseRule or GramianRule; found "
                f"{type(rule).__name__}. See CONTRIBUTING.md, 'How to add a rule'."
            )
