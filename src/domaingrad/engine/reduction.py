"""A rule over the K gradients of one tensor: one fused pass where a compiler is at hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal
from weakref import WeakKeyDictionary

from torch import Tensor

from domaingrad.rules import ElementwiseRule, Proposal, Statistic, Statistics, Tallied
from domaingrad.rules.statistics import accumulation_dtype, statistics_of

from .loops import MOST_UNROLLED, Loop
from .running import RunningStatistics

Kernels = Literal["auto", "eager", "compiled"]

Reduced = tuple[Tallied, Tensor]
"""The proposal for some components, and a witness: a number that is finite only if all gradients
are."""

FOLDED_FROM = 2**16
"""Components from which folding one gradient after the other is faster than whole-stack sums."""

SMALL = 2**13
"""Components up to which tensors are best reduced together: a call of PyTorch takes longer than its
work on so few."""


def is_small(components: int) -> bool:
    """Whether a tensor of so many components is best reduced together with others."""
    return components <= SMALL


class Reduction:
    """Apply an element-wise rule to stacked gradients, component by component.

    Args:
        rule: the rule.
        kernels: ``"eager"`` runs PyTorch's operations one after the other; ``"compiled"`` makes
            one loop of them by ``torch.compile``; ``"auto"`` compiles for large tensors where a
            compiler is found.
    """

    def __init__(self, rule: ElementwiseRule, kernels: Kernels) -> None:
        self._rule = rule
        self._kernels = kernels
        self._loop = _loops.get(rule) or _loops.setdefault(rule, Loop(_reduction(rule), str(rule)))

    def propose(self, stack: Tensor, factors: Tensor | None) -> Reduced:
        """The proposal from gradients of shape [K, n], each times its factor; overwrites them."""
        if self.compiles(stack):
            reduced = self._loop(stack, factors, required=self._kernels == "compiled")
            if reduced is not None:
                summed, witness = reduced
                return Tallied(*summed), witness
        proposal, witness = self._eager(stack, factors)
        return proposal.tallied(), witness

    def propose_together(self, stack: Tensor, factors: Tensor | None) -> tuple[Proposal, Tensor]:
        """One proposal for several small tensors that lie one after the other in [K, n]."""
        return self._from(statistics_of(_weighted(stack, factors), self._names))

    def propose_each(
        self, stack: Tensor, sizes: Sequence[int], factors: Tensor | None
    ) -> tuple[list[Tallied], Tensor]:
        """The proposals of several small tensors that lie one after the other in [K, n].

        Args:
            stack: the gradients of all.
            sizes: components of each, n together.
            factors: on the gradients of each domain.
        """
        together, witness = self._from(statistics_of(_weighted(stack, factors), self._names))
        updates = together.update.split_with_sizes(list(sizes))
        terms = [term.split_with_sizes(list(sizes)) for term in together.terms]
        masks = [] if together.mask is None else together.mask.split_with_sizes(list(sizes))
        return [
            Proposal(
                update,
                tuple(term[place] for term in terms),
                masks[place] if masks else None,
            ).tallied()
            for place, update in enumerate(updates)
        ], witness

    def compiles(self, stack: Tensor) -> bool:
        """Whether gradients like these go through one compiled loop, which leaves them alone."""
        if self._kernels == "compiled":
            return stack.numel() > 0 and len(stack) <= MOST_UNROLLED
        return self._kernels == "auto" and self._loop.is_worth_it(stack)

    @property
    def _names(self) -> frozenset[Statistic]:
        return self._rule.statistics | {"mean"}

    def _eager(self, stack: Tensor, factors: Tensor | None) -> tuple[Proposal, Tensor]:
        g = _weighted(stack, factors)
        if g.shape[1] < FOLDED_FROM:
            return self._from(statistics_of(g, self._names))
        running = RunningStatistics(self._names)
        for gradient in g.unbind(0):
            running.fold(gradient)
        return self._from(running.statistics())

    def _from(self, statistics: Statistics) -> tuple[Proposal, Tensor]:
        witness = statistics.mean.sum()
        return self._rule.propose(statistics), witness


def make_visible(proposal: Tallied) -> None:
    """Make NaN of the update of non-finite gradients, where the rule hides them."""
    if proposal.update.isfinite().all():
        proposal.update.fill_(math.nan)


def _weighted(stack: Tensor, factors: Tensor | None) -> Tensor:
    g = stack.to(accumulation_dtype(stack.dtype))
    return g if factors is None else g * factors.to(g).unsqueeze(1)


Summed = tuple[Tensor, Tensor | None, Tensor | None]
_loops: WeakKeyDictionary[ElementwiseRule, Loop] = WeakKeyDictionary()


def _reduction(rule: ElementwiseRule) -> Callable[[Tensor, Tensor | None], tuple[Summed, Tensor]]:
    def reduce(stack: Tensor, factors: Tensor | None) -> tuple[Summed, Tensor]:
        g = _weighted(stack, factors)
        # In a compiled loop, small integers cost more than they save, and sums more than maxima.
        statistics = statistics_of(g, rule.statistics | {"mean"}, counting=g.dtype)
        proposal = rule.propose(statistics)
        witness = statistics.mean.abs().amax()
        return (proposal.update, proposal.tally(), proposal.mask), witness

    return reduce
