"""The processes that train one model together, and which of them this one is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from domaingrad.bench.methods import Sharding
from domaingrad.engine.distributed.collectives import broadcast_value, gather_values
from domaingrad.engine.distributed.placement import unlike

T = TypeVar("T")


class FailedElsewhereError(Exception):
    """Another process has failed, and says why."""


class LostProcessError(RuntimeError):
    """Another process has ended, or does not answer."""


class Ranks:
    """One process or several; where there is one, everything is done at once and by itself.

    Every method but the properties is a collective call: all processes make the same ones in the
    same order.

    Args:
        fabric: makes Lightning Fabric, which knows device, precision and how a model is wrapped;
            called when that is first asked for.
        rank: number of this process.
        world: how many there are.
    """

    def __init__(self, fabric: Callable[[], Any], rank: int = 0, world: int = 1) -> None:
        self._make = fabric
        self.rank, self.world = rank, world

    @cached_property
    def _fabric(self) -> Any:
        return self._make()

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        device: torch.device = self._fabric.device
        return device

    def wrapped(self, model: nn.Module) -> nn.Module:
        """In DistributedDataParallel, if there are several processes."""
        if self.world == 1:
            return model
        wrapped: nn.Module = self._fabric.strategy.setup_module(model)
        return wrapped

    def average_gradients(self, parameters: Iterable[nn.Parameter], samples: int) -> None:
        """Mean of all processes' gradients, weighted by their numbers of samples.

        Not by DistributedDataParallel's own mean: that takes all processes to have as many, and
        how it rounds depends on what it has learnt in its first step, so that a run that is resumed
        would come to other numbers.
        """
        if self.world == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients] + [torch.ones(1, device=self.device)])
        flat *= samples
        dist.all_reduce(flat)
        sizes = [g.numel() for g in gradients]
        means: tuple[Tensor, ...] = (flat[:-1] / flat[-1]).split(sizes)  # type: ignore[no-untyped-call]
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view_as(gradient))

    def first(self, act: Callable[[], T]) -> T:
        """Do something on the first process alone; all get the plain values that it returns.

        Raises:
            FailedElsewhereError: it raised there; the first process raises what was raised.
        """
        if self.world == 1:
            return act()
        failed: Exception | None = None
        told: tuple[T | None, str | None] = (None, None)
        if self.rank == 0:
            try:
                told = (act(), None)
            except Exception as error:  # noqa: BLE001 - raised below, once all know
                failed, told = error, (None, _said(error))
        returned, why = broadcast_value(told)
        if failed is not None:
            raise failed
        if why is not None:
            raise FailedElsewhereError(why)
        value: T = returned
        return value

    def require_none_failed(self, failed: Exception | None) -> None:
        """End on all processes if one has failed; each different error is raised once.

        Raises:
            Exception: what failed here, if no process before this one failed likewise.
            FailedElsewhereError: what failed on another.
        """
        told = self.gathered(None if failed is None else _said(failed))
        if failed is not None and _said(failed) not in told[: self.rank]:
            raise failed
        if any(why is not None for why in told):
            raise FailedElsewhereError(next(why for why in told if why is not None))

    def gathered(self, own: T) -> list[T]:
        """What each process has, by rank."""
        if self.world == 1:
            return [own]
        return gather_values(own)

    def require_same(self, own: Mapping[str, Any]) -> None:
        """See that all processes have the same.

        Raises:
            FailedElsewhereError, ValueError: they have not; the first process has the latter.
        """
        found = self.gathered(dict(own))
        shown = [{name: repr(each.get(name)) for name in own} for each in found]
        failed = None
        if differing := unlike(shown):
            told = "; ".join(f"{name} is {ranks}" for name, ranks in differing.items())
            failed = ValueError(
                f"the processes differ, so they cannot train one model: {told}. "
                f"Give each the same command, data and version of the code."
            )
        self.require_none_failed(failed)

    def mean(self, own: float, samples: int) -> float:
        """The mean over all processes of what each has of its samples."""
        if self.world == 1:
            return own
        found = self.gathered((own, samples))
        return sum(value * count for value, count in found) / sum(count for _, count in found)

    def shared(self, rows: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
        """``of(rows)``, where each process does a part of the rows and all get all of it."""
        if len(rows) < self.world or self.world == 1:
            return of(rows)
        parts: Sequence[Tensor] = rows.tensor_split(self.world)
        return torch.cat(self.gathered(of(parts[self.rank])))

    def average_statistics(self, model: nn.Module) -> None:
        """Give all processes the mean of their running statistics; of whole numbers the first's."""
        if self.world == 1:
            return
        with torch.no_grad():
            for buffer in model.buffers():
                if buffer.is_floating_point():
                    mean = buffer.double()
                    dist.all_reduce(mean)
                    buffer.copy_(mean / self.world)
                else:
                    dist.broadcast(buffer, 0)

    def shares(self, sharding: Sharding, sizes: Sequence[int]) -> list[slice]:
        """Which samples of each domain this process has in a step.

        Args:
            sharding: how samples go to processes.
            sizes: samples of each domain in a step.
        """
        return shares(sharding, sizes, self.rank, self.world)


def shares(sharding: Sharding, sizes: Sequence[int], rank: int, world: int) -> list[slice]:
    """Which samples of each domain a process has; their numbers differ by one at most.

    >>> shares("domain by domain", [4, 4], 0, 2), shares("domain by domain", [4, 4], 1, 2)
    ([slice(0, 4, 1), slice(0, 0, 1)], [slice(0, 0, 1), slice(0, 4, 1)])
    >>> shares("sample by sample", [3, 3], 1, 2)
    [slice(1, 3, 2), slice(0, 3, 2)]
    """
    found, before, total = [], 0, sum(sizes)
    begin, end = total * rank // world, total * (rank + 1) // world
    for size in sizes:
        if sharding == "domain by domain":
            first, last = (min(max(place - before, 0), size) for place in (begin, end))
            found.append(slice(first, last, 1) if first < last else slice(0, 0, 1))
        else:
            found.append(slice((rank - before) % world, size, world))
        before += size
    return found


def is_lost_process(error: RuntimeError) -> bool:
    """Whether an error says, in the words of gloo or NCCL, that another process is gone."""
    distributed = getattr(dist, "DistError", ())
    return isinstance(error, distributed) or "gloo" in str(error)


def in_short(error: RuntimeError) -> str:
    """Of what gloo or NCCL says, the part that tells what happened.

    >>> in_short(RuntimeError("[pair.cc:537] Read error [10.0.0.2]:945: reset. This is typically"))
    'Read error [10.0.0.2]:945: reset'
    """
    line = next(iter(str(error).splitlines()), type(error).__name__)
    return re.sub(r"^\[\S*\] ", "", line).partition(". This is")[0]


def _said(error: Exception) -> str:
    """An error in one line, with its kind where it is not one of bad input."""
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
