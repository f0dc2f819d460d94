"""Mini-batches."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from .splits import Split


def draw(split: Split, size: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """``size`` training samples with replacement, as DomainBed's loaders draw them."""
    inputs, labels = split.data.tensors
    rows = split.train[torch.randint(len(split.train), (size,), generator=generator)]
    return inputs[rows], labels[rows]
