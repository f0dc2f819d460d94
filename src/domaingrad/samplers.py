"""Batches of several domains, on one process or several; what a step holds is a pure function.

Each sampler goes to a ``DataLoader`` as ``batch_sampler``. What it gives in a step depends on its
seed, epoch and step alone, so that training goes on exactly where it was left: ``state_dict``
counts the batches that were given out; where a loader's workers fetch ahead, count the steps
yourself and call :meth:`DomainSampler.start`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Sampler


class DomainSampler(Sampler[list[int]]):
    """What the samplers share.

    Args:
        domain: the domain of each sample, integers of shape [N].
        batch: size, as each sampler counts it.
        seed: of the order.
        rank: this process, of ``world``; that of the process group, if one is there, else 0.
        world: number of processes, likewise.

    Each ``iter`` begins an epoch, also after one that was left early; :meth:`load_state_dict` and
    :meth:`start` go on in the midst of one.

    Raises:
        ValueError: no samples, a size below 1, a rank that is not among the processes.
    """

    def __init__(
        self,
        domain: Tensor,
        batch: int,
        *,
        seed: int = 0,
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        if domain.ndim != 1 or len(domain) == 0 or domain.is_floating_point():
            raise ValueError(
                f"domain must be an integer tensor of shape [N] with N ≥ 1; found shape "
                f"{list(domain.shape)} of {domain.dtype}."
            )
        if batch < 1:
            raise ValueError(f"batch must be at least 1; found {batch}.")
        grouped = dist.is_available() and dist.is_initialized()
        world = world if world is not None else dist.get_world_size() if grouped else 1
        rank = rank if rank is not None else dist.get_rank() if grouped else 0
        if not 0 <= rank < world:
            raise ValueError(f"rank must be in 0 … {world - 1}; found {rank}.")
        self.labels: list[int] = torch.unique(domain).tolist()
        """The domains, in order."""
        self.epoch = 0
        self.step = 0
        """Batches given out in this epoch."""
        self._goes_on = False
        self._rows = {label: (domain == label).nonzero().flatten() for label in self.labels}
        self._batch, self._seed, self._rank, self._world = batch, seed, rank, world

    @abstractmethod
    def __len__(self) -> int:
        """Steps of an epoch, the same on every process."""

    @abstractmethod
    def batch_at(self, epoch: int, step: int) -> list[int]:
        """Samples of a step on this process; it may be none."""

    def __iter__(self) -> Iterator[list[int]]:
        """The batches of an epoch; of the rest of one, after :meth:`start`."""
        if self.step > 0 and not self._goes_on:
            self.epoch, self.step = self.epoch + 1, 0
        self._goes_on = False
        while self.step < len(self):
            self.step += 1
            yield self.batch_at(self.epoch, self.step - 1)
        self.epoch, self.step = self.epoch + 1, 0

    def start(self, epoch: int, step: int) -> None:
        """Go on from there."""
        self.epoch, self.step, self._goes_on = epoch, step, True

    def state_dict(self) -> dict[str, Any]:
        """Where it is."""
        return {"epoch": self.epoch, "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.start(state["epoch"], state["step"])

    def _shuffled(self, rows: Tensor, *names: int) -> Tensor:
        digest = sha256(repr((self._seed, *names)).encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        return rows[torch.randperm(len(rows), generator=generator)]

    def _stream(self, label: int, start: int, count: int) -> list[int]:
        """Samples of a domain, shuffled anew each time all were given."""
        rows = self._rows[label]
        taken: list[int] = []
        while count > 0:
            time, place = divmod(start, len(rows))
            part = self._shuffled(rows, label, time)[place : place + count].tolist()
            taken += part
            start, count = start + len(part), count - len(part)
        return taken

    @property
    def _largest(self) -> int:
        return max(len(rows) for rows in self._rows.values())


class BalancedSampler(DomainSampler):
    """As many samples of every domain in every step; ``batch`` counts those of a domain.

    An epoch ends when all samples of the largest domain were given; smaller ones begin anew
    meanwhile. The samples of a step are dealt out to the processes in turn.

    >>> sampler = BalancedSampler(torch.tensor([0, 0, 0, 0, 1, 1]), batch=2)
    >>> [sorted(batch)[-1] for batch in sampler]
    [5, 5]
    """

    def __len__(self) -> int:
        """Steps in which the largest domain is given once."""
        return math.ceil(self._largest / self._batch)

    def batch_at(self, epoch: int, step: int) -> list[int]:
        """Samples of a step on this process."""
        start = (epoch * len(self) + step) * self._batch
        whole = [row for label in self.labels for row in self._stream(label, start, self._batch)]
        return whole[self._rank :: self._world]


class MixedSampler(DomainSampler):
    """Samples as they come, each once an epoch; ``batch`` counts those of all processes together.

    The last step is smaller; a process may have no sample in it, for ``agree.idle()``.

    >>> sampler = MixedSampler(torch.tensor([0, 1, 0, 1, 1]), batch=2)
    >>> sorted(row for batch in sampler for row in batch)
    [0, 1, 2, 3, 4]
    """

    @property
    def _all(self) -> int:
        return sum(len(rows) for rows in self._rows.values())

    def __len__(self) -> int:
        """Steps in which every sample is given once."""
        return math.ceil(self._all / self._batch)

    def batch_at(self, epoch: int, step: int) -> list[int]:
        """Samples of a step on this process."""
        order = self._shuffled(torch.arange(self._all), epoch)
        whole = order[step * self._batch : (step + 1) * self._batch].tolist()
        return list(whole[self._rank :: self._world])


class DomainPerRankSampler(DomainSampler):
    """One domain a process and step, for :class:`~domaingrad.DDPAgreement`; ``batch`` a process.

    With as many processes as domains or more, rank r has domain r mod K, and those that share one
    have other samples of it. With fewer, the domains take turns, never twice in a step: each is
    visited once before any is visited again, in an order that is drawn anew every K steps.
    :meth:`domain_at` says which it is.

    >>> sampler = DomainPerRankSampler(torch.tensor([7, 7, 9]), batch=1, rank=1, world=2)
    >>> list(sampler), sampler.domain_at(0, 0)
    ([[2], [2]], 9)
    """

    @property
    def _takes_turns(self) -> bool:
        return len(self.labels) > self._world

    def __len__(self) -> int:
        """Steps in which the largest domain is given once, at least."""
        domains = len(self.labels)
        if self._takes_turns:
            return math.ceil(math.ceil(self._largest / self._batch) * domains / self._world)
        return max(
            math.ceil(len(rows) / (self._batch * self._sharing(place)))
            for place, rows in enumerate(self._rows.values())
        )

    def _sharing(self, place: int) -> int:
        """How many processes have a domain."""
        return len(range(place, self._world, len(self.labels)))

    def _visit(self, epoch: int, step: int) -> tuple[int, int]:
        """Which domain, and where in its samples."""
        steps, domains = epoch * len(self) + step, len(self.labels)
        if self._takes_turns:
            # A turn is world × domains visits, in which a step never meets a domain twice: the
            # domains in one order, again and again.
            visits = steps * self._world + self._rank
            order = self._shuffled(torch.tensor(self.labels), -1, visits // (self._world * domains))
            return int(order[visits % domains]), visits // domains * self._batch
        place = self._rank % domains
        share = steps * self._sharing(place) + self._rank // domains
        return self.labels[place], share * self._batch

    def domain_at(self, epoch: int, step: int) -> int:
        """The domain of this process in a step."""
        return self._visit(epoch, step)[0]

    def batch_at(self, epoch: int, step: int) -> list[int]:
        """Samples of a step on this process."""
        label, start = self._visit(epoch, step)
        return self._stream(label, start, self._batch)
