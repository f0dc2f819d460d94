"""What becomes of the domains' gradients: the rule's update."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor, nn

from domaingrad.rules import ElementwiseRule, GramianRule, Rule, Tallied
from domaingrad.rules.statistics import accumulation_dtype

from .gradients import UnitGradients, joined
from .reduction import FOLDED_FROM, Kernels, Reduction, is_small, make_visible
from .scratch import Scratch


class Agreement(Protocol):
    """A receiver that applies a rule."""

    non_finite: set[int]
    """The domains with a non-finite gradient."""

    def receive(self, index: int, gradients: UnitGradients) -> Tensor | None:
        """Take the gradients of one parameter."""

    def finish(self) -> dict[int, Tensor]:
        """The updates that had to wait for the whole model."""


@dataclass
class Small:
    """Gradients of small tensors of one kind, kept until there are enough of them."""

    stacks: dict[int, Tensor] = field(default_factory=dict)
    """[K, *shape], by the parameter's index."""
    components: int = 0


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
        self.rule = rule
        self.factors = factors
        self.scale = scale
        self._reduction = Reduction(rule, kernels)
        self._scratch = scratch
        self._waiting: dict[int, Tallied] = {}
        self._small: dict[tuple[torch.device, torch.dtype], Small] = {}
        self._updates: dict[int, Tensor] = {}

    def receive(self, index: int, gradients: UnitGradients) -> Tensor | None:
        """Apply the rule at once; later to small tensors, and if its scale is over the model."""
        if is_small(math.prod(gradients.shape)):
            self._keep(index, gradients)
            return None
        return self._update(index, self._proposed(gradients))

    @property
    def in_graph(self) -> ElementwiseAgreement | None:
        """Itself, where the rule needs no tensor but the one it is applied to."""
        return None if self.rule.scope == "model" else self

    def note(self, sums: Tensor) -> None:
        """Note whose gradients are not finite, from their sums, where a graph applied the rule."""
        finite = sums.isfinite().tolist()
        self.non_finite.update(unit for unit, ok in enumerate(finite) if not ok)

    def finish(self) -> dict[int, Tensor]:
        """The updates that were not returned at once."""
        while self._small:
            self._reduce_together(self._small.popitem()[1])
        updates, self._updates = self._updates, {}
        if not self._waiting:
            return updates
        # In the order of the parameters, so that random rules do not depend on the way back.
        waiting = sorted(self._waiting.items())
        finished = self.rule.finish_together([proposal for _, proposal in waiting])
        self._waiting.clear()
        return {
            index: self._scaled(update)
            for (index, _), update in zip(waiting, finished, strict=True)
        }

    def _update(self, index: int, proposal: Tallied) -> Tensor | None:
        if self.rule.scope == "model":
            self._waiting[index] = proposal
            return None
        return self._scaled(self.rule.finish_alone(proposal))

    def _scaled(self, update: Tensor) -> Tensor:
        return update if self.scale == 1.0 else update.mul_(self.scale)

    def _keep(self, index: int, gradients: UnitGradients) -> None:
        """Keep the gradients of a small tensor until there are more of them."""
        kind = gradients.device, gradients.dtype
        small = self._small.setdefault(kind, Small())
        small.stacks[index] = gradients.stack()
        small.components += math.prod(gradients.shape)
        if small.components >= FOLDED_FROM:
            self._reduce_together(self._small.pop(kind))

    def _reduce_together(self, small: Small) -> None:
        stacks = small.stacks.values()
        sizes = [math.prod(stack.shape[1:]) for stack in stacks]
        vectors = [
            stack.reshape(len(stack), size) for stack, size in zip(stacks, sizes, strict=True)
        ]
        flat = torch.cat(vectors, 1)
        if self.rule.scope != "model":
            self._reduce_at_once(small, flat, sizes)
            return
        proposals, witness = self._reduction.propose_each(flat, sizes, self.factors)
        if _is_not_finite(witness):
            self._note(flat)
        for (index, stack), proposal in zip(small.stacks.items(), proposals, strict=True):
            if self.non_finite and not stack.isfinite().all():
                make_visible(proposal)
            own = replace(proposal, update=proposal.update.clone())  # Of memory of its own.
            update = self._update(index, _shaped(own, stack.shape[1:]))
            if update is not None:
                self._updates[index] = update

    def _reduce_at_once(self, small: Small, flat: Tensor, sizes: Sequence[int]) -> None:
        """One call of the rule for all of them, each under its own scale."""
        proposal, witness = self._reduction.propose_together(flat, self.factors)
        update = proposal.update
        if proposal.terms:
            index, lengths = _segments(tuple(sizes), flat.device)
            sums = [
                torch.segment_reduce(term, "sum", lengths=lengths, unsafe=True)
                for term in proposal.terms
            ]
            tally = torch.stack([*sums, lengths.to(sums[0])])[:, index]
            update = self.rule.finish(Tallied(update, mask=proposal.mask), tally)
        update = self._scaled(update)
        if _is_not_finite(witness):
            self._note(flat)
        parts = update.split_with_sizes(list(sizes))
        for (place, stack), part in zip(small.stacks.items(), parts, strict=True):
            if self.non_finite and not stack.isfinite().all() and part.isfinite().all():
                part.fill_(math.nan)
            # Of memory of its own, as it becomes somebody's ``.grad``.
            self._updates[place] = part.view(stack.shape[1:]).clone()

    def _proposed(self, gradients: UnitGradients) -> Tallied:
        count, parts = gradients.count, []
        for tile in gradients.tiles():
            size = gradients.size_of(tile)
            stack = self._scratch.take((count, *size), gradients.dtype, gradients.device)
            gradients.fill(tile, stack)
            flat = stack.view(count, math.prod(size))
            part, witness = self._reduction.propose(flat, self.factors)
            if _is_not_finite(witness):
                gradients.fill(tile, stack)
                self._note(flat)
                if self.non_finite:
                    make_visible(part)
            parts.append(part)
        return _shaped(_joined(parts), gradients.shape)

    def _note(self, flat: Tensor) -> None:
        """Note whose gradients are not finite."""
        finite = flat.isfinite().all(1).tolist()
        self.non_finite.update(unit for unit, ok in enumerate(finite) if not ok)


@lru_cache(maxsize=64)
def _segments(sizes: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Of components side by side, the tensor that each belongs to, and each tensor's size."""
    lengths = torch.tensor(sizes)
    index = torch.arange(len(sizes)).repeat_interleave(lengths)
    return index.to(device), lengths.to(device)


def _is_not_finite(witness: Tensor) -> bool:
    return not math.isfinite(witness.item())


def _shaped(proposal: Tallied, shape: Sequence[int]) -> Tallied:
    """In the shape of the tensor, from vectors."""
    mask = None if proposal.mask is None else proposal.mask.view(tuple(shape))
    return replace(proposal, update=proposal.update.view(tuple(shape)), mask=mask)


def _joined(parts: Sequence[Tallied]) -> Tallied:
    """One proposal for the whole tensor."""
    if len(parts) == 1:
        return parts[0]
    tallies = [part.tally for part in parts if part.tally is not None]
    masks = [part.mask for part in parts if part.mask is not None]
    return Tallied(
        joined([part.update for part in parts]),
        torch.stack(tallies).sum(0) if tallies else None,
        joined(masks) if masks else None,
    )


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
