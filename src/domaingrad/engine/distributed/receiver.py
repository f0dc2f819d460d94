"""Receives the gradients of a mixed batch whose domains lie on several processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from domaingrad.rules import Rule
from domaingrad.rules.statistics import accumulation_dtype

from ..blocks import Kernels
from ..gradients import UnitGradients
from .exchange import Bucket, Exchange
from .placement import Placement

BUCKET_BYTES = 25 * 2**20
"""Of one row in a bucket, as DistributedDataParallel has it."""


class DistributedAgreement:
    """Applies a rule over all processes, bucket by bucket, while the backward pass goes on.

    Parameters are put into buckets from the last to the first, as
    their gradients arrive, and the buckets go in that order on every process.

    Args:
        rule: the rule.
        parameters: what is trained, in the same order on every process.
        placement: which process holds which domain in this step.
        factors_of: what the gradients of domains are multiplied by, [K], from their labels.
        scale: on the update.
        group: the processes.
        kernels: how an element-wise rule runs.
        wire: dtype on the way, if it is not that of the gradients.

    Raises:
        ValueError: fewer domains on all processes than the rule needs.
    """

    in_graph = None

    def __init__(
        self,
        rule: Rule,
        parameters: Sequence[nn.Parameter],
        placement: Placement,
        factors_of: Callable[[Sequence[int]], Tensor | None],
        scale: Tensor | None,
        group: dist.ProcessGroup | None,
        kernels: Kernels,
        wire: torch.dtype | None,
    ) -> None:
        device = parameters[0].device
        self.labels = placement.domains
        """All domains, on all processes."""
        rule.require_domains(len(self.labels), f" on all processes (domain {self.labels})")
        rows = [placement.rows_of(rank) for rank in range(placement.world)]
        self._exchange = Exchange(
            rule, rows, lambda: placement, factors_of, scale, group, kernels, wire
        )
        self._seen: Tensor | None = None
        self._parameters, self._group = parameters, group
        self._used = torch.zeros(len(parameters), device=device)
        self._buckets = [
            Bucket(
                indices,
                [parameters[index].numel() for index in indices],
                torch.zeros(
                    rows[dist.get_rank(group)],
                    sum(parameters[index].numel() for index in indices),
                    dtype=accumulation_dtype(parameters[indices[0]].dtype),
                    device=device,
                ),
            )
            for indices in _bucketed(parameters)
        ]
        self._place = {
            index: (number, start)
            for number, bucket in enumerate(self._buckets)
            for index, start in zip(bucket.indices, bucket.starts, strict=True)
        }
        self._missing = [set(bucket.indices) for bucket in self._buckets]
        self._sent = 0

    def receive(self, index: int, gradients: UnitGradients) -> None:
        """Put one parameter's gradients into its bucket, and send what is full."""
        number, start = self._place[index]
        bucket = self._buckets[number]
        stack = gradients.tensor()
        bucket.rows[:, start : start + self._parameters[index].numel()] = stack.reshape(
            len(stack), -1
        )
        self._used[index] = 1
        self._missing[number].discard(index)
        self._send(whole=True)

    def finish(self) -> dict[int, Tensor]:
        """The updates of all parameters that a domain on any process uses."""
        self._send(whole=False)
        dist.all_reduce(self._used, dist.ReduceOp.MAX, group=self._group)
        used = self._used.tolist()
        done = self._exchange.finish({index for index, is_used in enumerate(used) if not is_used})
        self._seen = self._exchange.finite(len(self.labels), self._used.device)
        return {
            index: bucket.update[start : start + size]
            .view(self._parameters[index].shape)
            .to(bucket.rows.dtype, copy=True)
            for bucket in done
            for index, start, size in zip(bucket.indices, bucket.starts, bucket.sizes, strict=True)
            if used[index]
        }

    def finite(self) -> Tensor | None:
        """Whether all gradients of each domain are, [K], after :meth:`finish`."""
        return self._seen

    def _send(self, whole: bool) -> None:
        """Send the next buckets, as far as they are full, or all that are left."""
        while self._sent < len(self._buckets) and not (whole and self._missing[self._sent]):
            self._exchange.take(self._buckets[self._sent])
            self._sent += 1


def _bucketed(parameters: Sequence[nn.Parameter]) -> list[list[int]]:
    """Numbers of parameters by bucket, from the last to the first, of one dtype each."""
    buckets: list[list[int]] = []
    filled, dtype = 0, None
    for index in reversed(range(len(parameters))):
        parameter = parameters[index]
        size = parameter.numel() * accumulation_dtype(parameter.dtype).itemsize
        if not buckets or filled + size > BUCKET_BYTES or dtype != parameter.dtype:
            buckets.append([])
            filled, dtype = 0, parameter.dtype
        buckets[-1].append(index)
        filled += size
    return buckets
