"""Buckets of gradients on their way: to shards, through the rule, and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from domaingrad.rules import Rule
from domaingrad.rules.authoring import ElementwiseRule, Whole
from domaingrad.rules.statistics import accumulation_dtype

from ..blocks import Block, Kernels, Part, Runner
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
    block: Block = field(default_factory=lambda: Block([]), init=False)
    """Of all ranks' rows, on this rank's shard."""
    update: Tensor = field(init=False)
    """Of all components, and what is behind them to fill the last shard."""

    @property
    def starts(self) -> list[int]:
        """Where each parameter begins."""
        return [sum(self.sizes[:place]) for place in range(len(self.sizes))]


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
        factors_of: what the gradients of domains are multiplied by, [K], from their labels.
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
        factors_of: Callable[[Sequence[int]], Tensor | None],
        scale: Tensor | None,
        group: dist.ProcessGroup | None,
        kernels: Kernels,
        wire: torch.dtype | None,
    ) -> None:
        self._placement, self._group, self._wire = placement, group, wire
        self._rows, self._world = rows, len(rows)
        self._rank = dist.get_rank(group)
        self._factors_of = factors_of
        self._runner = Runner(rule, None, scale, kernels, self._over_shards)
        self._whole = isinstance(rule, ElementwiseRule) and rule.scope != "component"
        self._flying: Bucket | None = None
        self._working: list[Bucket] = []
        self._returning: list[tuple[Bucket, dist.Work]] = []

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
        self._runner.finish(unused)
        for bucket in self._working:
            self._give_back(bucket)
        self._working = []
        for _, work in self._returning:
            work.wait()
        done = [bucket for bucket, _ in self._returning]
        self._returning = []
        return done

    def own_finite(self) -> Tensor | None:
        """As :meth:`Runner.finite`, of what this process saw."""
        return self._runner.finite()

    def finite(self, count: int, device: torch.device) -> Tensor:
        """Whether all gradients of each of so many domains are, on all processes; collective."""
        own = self._runner.finite()
        bad = torch.zeros(count, device=device) if own is None else (~own).to(device).float()
        dist.all_reduce(bad, dist.ReduceOp.MAX, group=self._group)
        return bad == 0

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
        self._runner.factors = self._factors_of(placement.domains)
        stack = placement.combined(rows.to(accumulation_dtype(bucket.rows.dtype)))
        bucket.block = Block(self._parts(bucket), stack)
        self._runner.take(bucket.block)
        self._working.append(bucket)
        while self._working and self._working[0].block.update is not None:
            self._give_back(self._working.pop(0))

    def _parts(self, bucket: Bucket) -> list[Part]:
        """Where each parameter lies in this rank's shard.

        Of a rule with a scale, those that do not lie in it, too: empty, so that every process sums
        over the same parameters and draws the same random numbers.
        """
        shard = self._shard(bucket)
        low, high = self._rank * shard, (self._rank + 1) * shard
        parts = []
        for index, start, size in zip(bucket.indices, bucket.starts, bucket.sizes, strict=True):
            first, last = (min(max(edge - start, 0), size) for edge in (low, high))
            if first < last or self._whole:
                parts.append(Part(index, last - first, Whole(size, slice(first, last))))
        return parts

    def _over_shards(self, tensor: Tensor, how: str) -> Tensor:
        operation = dist.ReduceOp.SUM if how == "sum" else dist.ReduceOp.MAX
        device = "cuda" if dist.get_backend(self._group) == "nccl" else "cpu"
        travelling = tensor.to(device, copy=True)
        dist.all_reduce(travelling, operation, group=self._group)
        return travelling.to(tensor.device)

    def _give_back(self, bucket: Bucket) -> None:
        update = bucket.block.update
        assert update is not None
        shard, filled = self._shard(bucket), self._filled(bucket, self._rank)
        dtype = self._wire or accumulation_dtype(bucket.rows.dtype)
        own = torch.zeros(shard, dtype=dtype, device=bucket.arrived.device)
        own[:filled].copy_(update)
        bucket.block = Block([])
        bucket.update = self._room_for(bucket, self._world * shard, own)
        work = all_gather(bucket.update, own, group=self._group, async_op=True)
        self._returning.append((bucket, work))

    def _room_for(self, bucket: Bucket, size: int, like: Tensor) -> Tensor:
        """Where the bucket's own gradients were, which have been sent, if the update fits there."""
        rows = bucket.rows
        if rows.dtype == like.dtype and rows.numel() == size and rows.is_contiguous():
            return rows.view(-1)
        return like.new_empty(size)
