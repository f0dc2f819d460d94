"""Mini-batches."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from .splits import Split


def draw(
    split: Split, size: int, generator: Generator, part: slice = slice(None)
) -> tuple[Tensor, Tensor]:
    """``size`` training samples with replacement, as DomainBed's loaders draw them.

    Where a split has strata, as many of each as can be; what is left over goes to the first ones.
    All of them are drawn, and ``part`` of them fetched.
    """
    inputs, labels = split.data.tensors
    rows = torch.cat(
        [
            stratum[torch.randint(len(stratum), (count,), generator=generator)]
            for stratum, count in _shares(split, size)
        ]
    )
    return inputs[rows[part]], labels[rows[part]]


def _shares(split: Split, size: int) -> list[tuple[Tensor, int]]:
    """Rows, and how many of them are drawn."""
    strata = split.strata or (split.train,)
    share, left = divmod(size, len(strata))
    return [(stratum, share + (index < left)) for index, stratum in enumerate(strata)]
