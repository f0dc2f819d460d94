"""Stacked gradients of some parameters, flat, with a table of which lies where."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from domaingrad.rules.authoring import Whole

SMALL = 2**13
"""On a CPU, components up to which tensors are best taken together: a call of PyTorch takes longer
than its work on so few."""

HOT = 2**16
"""On a CPU, components of a block of small tensors: all it takes to work on them stays in the
processor's cache."""

BYTES = 2**26
"""Elsewhere, bytes of a block: enough for the device to be busy, and few launches."""


def capacity(device: torch.device, count: int, itemsize: int) -> tuple[int, int]:
    """Components up to which tensors are taken together, and of all of them in a block.

    Args:
        device: where they lie.
        count: rows, K.
        itemsize: bytes of a component.
    """
    if device.type == "cpu":
        return SMALL, HOT
    most = BYTES // (count * itemsize)
    return most, most


@dataclass(frozen=True)
class Part:
    """A parameter in a block, or what of it lies in this process."""

    index: int
    """Of the parameter."""
    size: int
    """Components here."""
    whole: Whole | None = None
    """What it is a part of, where parameters are spread over processes."""


@dataclass
class Block:
    """The gradients of some parameters side by side."""

    parts: Sequence[Part]
    rows: Tensor | None = None
    """[K, n], n components together; of the runner from :meth:`Runner.take` on."""
    update: Tensor | None = field(default=None, init=False)
    """[n], when the rule is through."""

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        """Each parameter, by its index, and its update."""
        assert self.update is not None
        sizes = [part.size for part in self.parts]
        for part, update in zip(self.parts, self.update.split_with_sizes(sizes), strict=True):
            yield part.index, update

    def sums(self, terms: Sequence[Tensor]) -> Tensor:
        """[T + 1, parts]: of each of several parts, sums of T terms [n], and its components."""
        _, lengths = self._segments(terms[0].device)
        sums = [
            torch.segment_reduce(term, "sum", lengths=lengths, unsafe=True, axis=0)
            for term in terms
        ]
        return torch.stack([*sums, lengths.to(sums[0])])

    def spread(self, table: Tensor) -> Tensor:
        """From [T, parts], what holds for each component: [T, n]; [T] with a single part."""
        if len(self.parts) == 1:
            return table.squeeze(1)
        index, _ = self._segments(table.device)
        return table.index_select(1, index)

    def _segments(self, device: torch.device) -> tuple[Tensor, Tensor]:
        return _segments(tuple(part.size for part in self.parts), device)


@lru_cache(maxsize=256)
def _segments(sizes: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Of components side by side, the part that each belongs to, and each part's size."""
    lengths = torch.tensor(sizes)
    index = torch.arange(len(sizes)).repeat_interleave(lengths)
    return index.to(device), lengths.to(device)
