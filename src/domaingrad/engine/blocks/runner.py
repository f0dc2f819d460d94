"""The one way from blocks of gradients through a rule to updates."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from domaingrad.rules import Rule
from domaingrad.rules.authoring import (
    ElementwiseRule,
    GramianRule,
    Proposal,
    Reduce,
    StackRule,
    Statistics,
)
from domaingrad.rules.base import alone

from .block import Block
from .kernels import Kernel, Kernels, Reduced, joined, largest_of, proposed, weighted


@dataclass
class _Waiting:
    """A block whose rule needs the whole model."""

    block: Block
    found: Reduced
    table: Tensor


class Runner:
    """Takes blocks through a rule, each at once if the rule allows, else at the end.

    A gradient that is not finite makes NaN of its component of the update, whatever the rule hides;
    whose it was is in :meth:`finite`. Nothing waits for the device, but for the K×K products of a
    Gramian rule.

    Args:
        rule: the rule.
        factors: on the gradients of each domain, [K]; ``None`` for ones.
        scale: on the update, as a tensor of one number; ``None`` for 1.
        kernels: how an element-wise rule runs.
        reduce: sums, or takes the maximum of, a tensor over the processes that the parameters are
            spread over; ``None`` where they are whole.
    """

    def __init__(
        self,
        rule: Rule,
        factors: Tensor | None,
        scale: Tensor | None,
        kernels: Kernels,
        reduce: Reduce | None = None,
    ) -> None:
        if not isinstance(rule, (ElementwiseRule, StackRule, GramianRule)):
            raise TypeError(
                f"expected a rule derived from ElementwiseRule, StackRule or GramianRule; found "
                f"{type(rule).__name__}. See docs/tutorials/new_rule.md."
            )
        self.rule = rule
        self.factors = factors
        self.scale = scale
        self._reduce = reduce
        self._kernel = Kernel(rule, kernels) if isinstance(rule, ElementwiseRule) else None
        self._waiting: list[_Waiting] = []
        self._kept: list[Block] = []
        self._largest: list[Tensor] = []

    def take(self, block: Block, tiles: Iterable[Tensor] = ()) -> None:
        """Take the gradients of a block.

        Args:
            block: its rows become ours.
            tiles: in the place of its rows, some columns of them at a time, each of which is done
                with when the next is asked for; not for Gramian rules.
        """
        if isinstance(self.rule, GramianRule):
            assert block.rows is not None
            block.rows = weighted(block.rows, self.factors)
            self._kept.append(block)
            return
        columns = [block.rows] if block.rows is not None else tiles
        block.rows = None
        if isinstance(self.rule, StackRule):
            block.update = self._scaled(torch.cat([self._combined(some) for some in columns]))
            return
        assert self._kernel is not None
        summed, parts = len(block.parts) == 1, []
        for some in columns:
            found, largest = self._kernel(some, self.factors, summed)
            parts.append(found)
            if largest is not None:
                self._largest.append(largest)
        self._go_on(block, joined(parts, summed))

    def take_statistics(self, block: Block, statistics: Statistics) -> None:
        """Take the statistics of a block's gradients, by an element-wise rule."""
        assert isinstance(self.rule, ElementwiseRule)
        found, _ = proposed(self.rule, statistics, summed=len(block.parts) == 1)
        self._go_on(block, found)

    def note(self, largest: Tensor) -> None:
        """Note the largest gradients of each domain, [K], that were seen elsewhere."""
        self._largest.append(largest)

    def finish(self, unused: Collection[int] = ()) -> None:
        """Give every block that waited its update.

        Args:
            unused: parameters that no domain uses, for which no random number is drawn.
        """
        if self._kept:
            self._combine()
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        total = torch.stack([each.table.sum(1) for each in waiting]).sum(0)
        if self._reduce is not None:
            total = self._reduce(total.double(), "sum").to(total)
        assert isinstance(self.rule, ElementwiseRule)
        if self.rule.draws:
            self._finish_one_by_one(waiting, total, unused)
            return
        for each in waiting:
            self._finish(each.block, each.found, total)

    def finite(self) -> Tensor | None:
        """Whether all gradients of each domain are, [K], on their device; ``None`` if they are."""
        if not self._largest:
            return None
        device = self._largest[0].device
        return torch.stack([each.to(device) for each in self._largest]).isfinite().all(0)

    def _combined(self, rows: Tensor) -> Tensor:
        assert isinstance(self.rule, StackRule)
        g = weighted(rows, self.factors)
        largest = largest_of(g)
        if g.device.type != "cpu" or not largest.isfinite().all():
            self._largest.append(largest)
        return self.rule.combine(g)

    def _go_on(self, block: Block, found: Reduced) -> None:
        """From the proposal to the update, as far as the rule's scope allows."""
        assert isinstance(self.rule, ElementwiseRule)
        if not found.terms:
            block.update = self._scaled(found.update)
            return
        table = self._table(block, found)
        if self.rule.scope == "model":
            self._waiting.append(_Waiting(block, found, table))
            return
        if self._reduce is not None:
            table = self._reduce(table.double(), "sum").to(table)
        self._finish(block, found, block.spread(table))

    def _table(self, block: Block, found: Reduced) -> Tensor:
        if len(block.parts) > 1:
            return block.sums(found.terms)
        size = torch.full_like(found.terms[0], block.parts[0].size)
        return torch.stack([*found.terms, size])

    def _finish(self, block: Block, found: Reduced, tally: Tensor) -> None:
        assert isinstance(self.rule, ElementwiseRule)
        whole = block.parts[0].whole if len(block.parts) == 1 else None
        proposal = Proposal(found.update, mask=found.mask, whole=whole)
        block.update = self._scaled(self.rule.finish(proposal, tally))

    def _finish_one_by_one(
        self, waiting: list[_Waiting], total: Tensor, unused: Collection[int]
    ) -> None:
        """In the order of the model."""
        assert isinstance(self.rule, ElementwiseRule)
        found = []
        for each in waiting:
            sizes = [part.size for part in each.block.parts]
            updates = each.found.update.split_with_sizes(sizes)
            mask = each.found.mask
            masks = [None] * len(sizes) if mask is None else mask.split_with_sizes(sizes)
            found += list(zip(each.block.parts, updates, masks, strict=True))
        for part, update, mask in sorted(found, key=lambda one: one[0].index):
            if part.index not in unused:
                proposal = Proposal(update, mask=mask, whole=part.whole)
                update.copy_(self.rule.finish(proposal, total))
        for each in waiting:
            each.block.update = self._scaled(each.found.update)

    def _combine(self) -> None:
        """Weigh the domains by the products of their gradients over the whole model."""
        assert isinstance(self.rule, GramianRule)
        kept, self._kept = self._kept, []
        rows = [block.rows for block in kept if block.rows is not None]
        weights = self.rule.weigh(rows, self._reduce or alone)
        if weights.finite is not None and not weights.finite.all():
            self._largest.append(torch.where(weights.finite, 0.0, float("nan")))
        for block in kept:
            assert block.rows is not None
            block.update = self._scaled(weights.sum_of(block.rows))
            block.rows = None

    def _scaled(self, update: Tensor) -> Tensor:
        return update if self.scale is None else update.mul_(self.scale.to(update))
