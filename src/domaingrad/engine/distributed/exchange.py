"""Buckets of gradients on their way: to shards, through the rule, and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.distributed as dist
from torch import Tensor

from domaingrad.rules import (
    ElementwiseRule,
    GramianRule,
    Rule,
    Tallied,
    Whole,
    statistics_of,
)
from domaingrad.rules.statistics import accumulation_dtype

from ..reduction import FOLDED_FROM, Kernels, Reduction, is_small, make_visible
from .collectives import all_gather
from .placement import Placement


@dataclass
class Bucket:
    """Some parameters, one after the other, and this process's rows of their gradients."""

    indices: Sequence[int]
    """Numbers of the parameters, which are the same on all ranks."""
    sizes: Sequence[int]
    """Components of each."""
    rows: Tensor
    """[R, n], n = Σ sizes; R domains on this rank. May be overwritten."""
    arrived: Tensor = field(init=False)
    """Rows of all ranks on this rank's shard, [R of all ranks × shard]."""
    travelling: dist.Work | None = None
    update: Tensor = field(init=False)
    """Of all components, and what is behind them to fill the last shard."""

    @property
    def starts(self) -> list[int]:
        """Where each parameter begins."""
        return [sum(self.sizes[:place]) for place in range(len(self.sizes))]


@dataclass(frozen=True)
class Part:
    """What of a parameter lies in this process's shard of a bucket."""

    place: int
    """Of the parameter in the bucket."""
    begin: int
    end: int
    """Where it lies in the shard."""
    whole: Whole


class Exchange:
    """Takes buckets in, in the same order on every process, and gives their updates.

    all_to_all: every process gets all rows of its shard of a bucket. The rule works there. What the
    rule sums over a tensor or the model is summed over the shards. all_gather: every process gets
    the update. While a bucket travels, the next one is computed. Bytes: those of a ring all-reduce
    for one row a process, 2 n (W − 1)/W.

    Args:
        rule: the rule.
        rows: how many rows each rank has.
        placement: which they are; asked for as late as that must be known.
        factor_of: what a domain's gradients are multiplied by, by its label.
        scale: on the update.
        group: the processes.
        kernels: how an element-wise rule runs.
        wire: dtype on the way, if it is not that of the gradients.
    """

    def __init__(
        self,
        rule: Rule,
        rows: Sequence[int],
        placement: Callable[[], Placement],
        factor_of: Callable[[int], float],
        scale: float,
        group: dist.ProcessGroup | None,
        kernels: Kernels,
        wire: torch.dtype | None,
    ) -> None:
        self._rule, self._placement, self._group = rule, placement, group
        self._rows, self._world, self._factor_of = rows, len(rows), factor_of
        self._scale, self._wire, self._kernels = scale, wire, kernels
        self._rank = dist.get_rank(group)
        self._width = _tally_width(rule)
        self._flying: Bucket | None = None
        self._waiting: list[tuple[Bucket, list[tuple[int, Tallied]]]] = []
        self._stacks: list[tuple[Bucket, Tensor]] = []
        self._returning: list[tuple[Bucket, dist.Work]] = []
        self.non_finite: set[int] = set()
        """Domains (by their place among all) of which this process saw a gradient not finite."""

    def take(self, bucket: Bucket) -> None:
        """Send a bucket on its way, and work on the one before it.

        Once all are taken, parameters that no domain on any process uses may be named to
        :meth:`finish`, so that a random rule draws nothing for them, as in one process.
        """
        self._send(bucket)
        before, self._flying = self._flying, bucket
        if before is not None:
            self._work_on(before)

    def finish(self, unused: Collection[int] = ()) -> list[Bucket]:
        """Wait for everything; the buckets with their updates."""
        if self._flying is not None:
            self._work_on(self._flying)
            self._flying = None
        if self._waiting:
            self._finish_model(unused)
        if self._stacks:
            self._combine()
        for _, work in self._returning:
            work.wait()
        done = [bucket for bucket, _ in self._returning]
        self._returning = []
        return done

    def _shard(self, bucket: Bucket) -> int:
        """Components of a shard; the last ones may have fewer."""
        return max(1, math.ceil(sum(bucket.sizes) / self._world))

    def _filled(self, bucket: Bucket, rank: int) -> int:
        """Components in a rank's shard."""
        shard = self._shard(bucket)
        return max(0, min(sum(bucket.sizes) - rank * shard, shard))

    def _send(self, bucket: Bucket) -> None:
        world = self._world
        sizes = [self._filled(bucket, rank) for rank in range(world)]
        rows = bucket.rows.to(self._wire or bucket.rows.dtype)
        own = len(rows)
        if own == 1:
            outgoing = rows.view(-1)
        else:
            outgoing = torch.cat([part.reshape(-1) for part in torch.split(rows, sizes, 1)])
        coming = [self._rows[rank] * sizes[self._rank] for rank in range(world)]
        bucket.arrived = rows.new_empty(sum(coming))
        bucket.travelling = dist.all_to_all_single(
            bucket.arrived,
            outgoing,
            coming,
            [own * size for size in sizes],
            group=self._group,
            async_op=True,
        )

    def _work_on(self, bucket: Bucket) -> None:
        assert bucket.travelling is not None
        bucket.travelling.wait()
        rows = bucket.arrived.view(sum(self._rows), self._filled(bucket, self._rank))
        placement = self._placement()
        stack = placement.combined(rows.to(accumulation_dtype(bucket.rows.dtype)))
        factors = [self._factor_of(label) for label in placement.domains]
        if any(factor != 1.0 for factor in factors):
            stack = stack * stack.new_tensor(factors).unsqueeze(1)
        if isinstance(self._rule, GramianRule):
            self._note(_sums(stack))
            self._stacks.append((bucket, stack))
            return
        assert isinstance(self._rule, ElementwiseRule)
        proposals = [
            (part.place, proposal)
            for run in _runs(self._parts(bucket))
            for part, proposal in zip(run, self._proposed(stack, run), strict=True)
        ]
        if self._rule.scope == "model":
            self._waiting.append((bucket, proposals))
            return
        if self._rule.scope == "tensor":
            tallies = self._tallies(bucket, proposals)
            dist.all_reduce(tallies, group=self._group)
            parts = [
                self._rule.finish(proposal, tallies[place].to(proposal.update))
                for place, proposal in proposals
            ]
        else:
            parts = [proposal.update for _, proposal in proposals]
        self._give_back(bucket, parts)

    def _parts(self, bucket: Bucket) -> list[Part]:
        """Parameters and where they lie in this rank's shard, and the shard in them.

        Of a rule with one scale for the model, those that do not lie in it, too: empty, so that
        every process draws the same random numbers.
        """
        assert isinstance(self._rule, ElementwiseRule)
        shard = self._shard(bucket)
        low, high = self._rank * shard, (self._rank + 1) * shard
        parts = []
        for place, (start, size) in enumerate(zip(bucket.starts, bucket.sizes, strict=True)):
            first, last = (min(max(edge - start, 0), size) for edge in (low, high))
            begin, end = (min(max(edge, low), high) - low for edge in (start, start + size))
            if begin < end or self._rule.scope == "model":
                parts.append(Part(place, begin, end, Whole(size, slice(first, last))))
        return parts

    def _proposed(self, stack: Tensor, run: Sequence[Part]) -> list[Tallied]:
        """The proposals of parts that lie side by side."""
        assert isinstance(self._rule, ElementwiseRule)
        reduction = Reduction(self._rule, self._kernels)
        columns, sums = stack[:, run[0].begin : run[-1].end], None
        if len(run) > 1:
            sizes = [part.end - part.begin for part in run]
            proposals, witness = reduction.propose_each(columns, sizes, None)
        else:
            # Taken before, since eager reductions overwrite what they are given.
            sums = None if reduction.compiles(columns) else _sums(columns)
            proposal, witness = reduction.propose(columns, None)
            proposals = [proposal]
        # A sum of finite means may overflow, which is no sign of anything.
        suspicious = not math.isfinite(witness.item())
        if suspicious and self._note(_sums(columns) if sums is None else sums):
            for part, proposal in zip(run, proposals, strict=True):
                if len(run) == 1 or not stack[:, part.begin : part.end].isfinite().all():
                    make_visible(proposal)
        return [
            replace(proposal, whole=part.whole)
            for part, proposal in zip(run, proposals, strict=True)
        ]

    def _note(self, sums: Tensor) -> bool:
        """Note whose gradients are not finite, by their sums; whether any are."""
        finite = sums.isfinite().tolist()
        self.non_finite.update(domain for domain, ok in enumerate(finite) if not ok)
        return not all(finite)

    def _tallies(self, bucket: Bucket, proposals: Sequence[tuple[int, Tallied]]) -> Tensor:
        """[parameters, sums of the rule]: zeros for what lies in other shards."""
        tallies = torch.zeros(
            len(bucket.sizes), self._width, dtype=torch.float64, device=bucket.arrived.device
        )
        for place, proposal in proposals:
            assert proposal.tally is not None
            tallies[place] += proposal.tally.double()
        return tallies

    def _finish_model(self, unused: Collection[int]) -> None:
        """All parameters under one scale, in their order."""
        assert isinstance(self._rule, ElementwiseRule)
        tally = torch.stack(
            [self._tallies(bucket, proposals).sum(0) for bucket, proposals in self._waiting]
        ).sum(0)
        dist.all_reduce(tally, group=self._group)
        # In the order of the parameters, so that random rules draw as one process would.
        in_order = sorted(
            (
                (bucket.indices[place], number, place, proposal)
                for number, (bucket, proposals) in enumerate(self._waiting)
                for place, proposal in proposals
            ),
            key=lambda each: each[0],
        )
        finished = {
            (number, place): proposal.update
            if index in unused
            else self._rule.finish(proposal, tally.to(proposal.update))
            for index, number, place, proposal in in_order
        }
        waiting, self._waiting = self._waiting, []
        for number, (bucket, proposals) in enumerate(waiting):
            self._give_back(bucket, [finished[number, place] for place, _ in proposals])

    def _combine(self) -> None:
        """One weighted sum, by the matrix of products over all shards."""
        assert isinstance(self._rule, GramianRule)
        stacks, self._stacks = self._stacks, []
        updates = self._rule.updates([stack for _, stack in stacks], self._over_shards)
        for (bucket, _), update in zip(stacks, updates, strict=True):
            self._give_back(bucket, [update])

    def _over_shards(self, tensor: Tensor, how: str) -> Tensor:
        operation = dist.ReduceOp.SUM if how == "sum" else dist.ReduceOp.MAX
        travelling = tensor.to(self._device)
        dist.all_reduce(travelling, operation, group=self._group)
        return travelling.to(tensor.device)

    @property
    def _device(self) -> torch.device:
        backend = dist.get_backend(self._group)
        return torch.device("cuda" if backend == "nccl" else "cpu")

    def _give_back(self, bucket: Bucket, parts: Sequence[Tensor]) -> None:
        shard, filled = self._shard(bucket), self._filled(bucket, self._rank)
        dtype = self._wire or accumulation_dtype(bucket.rows.dtype)
        own = torch.empty(shard, dtype=dtype, device=bucket.arrived.device)
        own[filled:] = 0.0
        if self._scale != 1.0:
            parts = [part * self._scale for part in parts]
        if parts:
            torch.cat([part.reshape(-1).to(dtype) for part in parts], out=own[:filled])
        bucket.update = self._room_for(bucket, self._world * shard, own)
        work = all_gather(bucket.update, own, group=self._group, async_op=True)
        self._returning.append((bucket, work))

    def _room_for(self, bucket: Bucket, size: int, like: Tensor) -> Tensor:
        """Where the bucket's own gradients were, which have been sent, if the update fits there."""
        rows = bucket.rows
        if rows.dtype == like.dtype and rows.numel() == size and rows.is_contiguous():
            return rows.view(-1)
        return like.new_empty(size)


def _runs(parts: Sequence[Part]) -> list[list[Part]]:
    """Parts that are reduced together: small ones side by side, and each of the others alone."""
    runs: list[list[Part]] = []
    for part in parts:
        if (
            runs
            and all(is_small(each.end - each.begin) for each in (runs[-1][-1], part))
            and part.end - runs[-1][0].begin < FOLDED_FROM
        ):
            runs[-1].append(part)
        else:
            runs.append([part])
    return runs


def _sums(stack: Tensor) -> Tensor:
    """Of each row; where its numbers are finite, and in float32, so is this."""
    return stack.sum(1, dtype=torch.float64)


def _tally_width(rule: Rule) -> int:
    """How many numbers the rule sums over a tensor or the model."""
    if not isinstance(rule, ElementwiseRule):
        return 0
    tally = rule.propose(statistics_of(torch.ones(2, 1), rule.statistics)).tally()
    return 0 if tally is None else tally.numel()
