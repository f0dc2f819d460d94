"""Mini-batches."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from .splits import Split


def draw(split: Split, size: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Inputs and labels of :func:`drawn_rows`."""
    rows = drawn_rows(split, size, generator)
    inputs, labels = split.data.tensors
    return inputs[rows], labels[rows]


def drawn_rows(split: Split, size: int, generator: Generator) -> Tensor:
    """``size`` training samples with replacement, as DomainBed's loaders draw them.

    Where a split has strata, as many of each as can be, and one more of some, drawn anew each time;
    in random order.
    """
    rows = torch.cat(
        [
            stratum[torch.randint(len(stratum), (count,), generator=generator)]
            for stratum, count in _shares(split, size, generator)
        ]
    )
    return rows[torch.randperm(size, generator=generator)] if split.strata else rows


def _shares(split: Split, size: int, generator: Generator) -> list[tuple[Tensor, int]]:
    """Rows, and how many of them are drawn."""
    if not split.strata:
        return [(split.train, size)]
    share, left = divmod(size, len(split.strata))
    more = set(torch.randperm(len(split.strata), generator=generator)[:left].tolist())
    counts = [share + (place in more) for place in range(len(split.strata))]
    return [(own, count) for own, count in zip(split.strata, counts, strict=True) if count]
