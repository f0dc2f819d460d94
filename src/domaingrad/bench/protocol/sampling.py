"""Mini-batches."""

from __future__ import annotations

from collections.abc import Sequence

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


def drawn_ahead(splits: Sequence[Split], size: int, steps: int, generator: Generator) -> Tensor:
    """What ``steps`` times :func:`drawn_rows` of each split in turn gives, [steps, K, size].

    Without strata all at once: ``torch.randint(n, …)`` takes a word of 32 bits of the generator for
    each number, modulo n, and so two of them are a whole number of 64 bits.
    """
    at_once = 0 if any(split.strata for split in splits) else steps - steps % 2
    words = torch.empty(at_once * len(splits) * size // 2, dtype=torch.int64)
    words.random_(torch.iinfo(words.dtype).min, None, generator=generator)
    halves = torch.stack([(words >> 32) & 0xFFFFFFFF, words & 0xFFFFFFFF], 1)
    places = halves.view(at_once, len(splits), size)
    rows = [split.train[places[:, e] % len(split.train)] for e, split in enumerate(splits)]
    rest = [
        torch.stack([drawn_rows(split, size, generator) for split in splits])
        for _ in range(steps - at_once)
    ]
    return torch.cat([torch.stack(rows, 1), *(each[None] for each in rest)])


def _shares(split: Split, size: int, generator: Generator) -> list[tuple[Tensor, int]]:
    """Rows, and how many of them are drawn."""
    if not split.strata:
        return [(split.train, size)]
    share, left = divmod(size, len(split.strata))
    more = set(torch.randperm(len(split.strata), generator=generator)[:left].tolist())
    counts = [share + (place in more) for place in range(len(split.strata))]
    return [(own, count) for own, count in zip(split.strata, counts, strict=True) if count]
