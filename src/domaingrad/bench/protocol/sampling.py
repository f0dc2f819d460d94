"""Mini-batches."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def draw(samples: tuple[Tensor, Tensor], size: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """``size`` samples with replacement, as DomainBed's loaders draw them."""
    inputs, labels = samples
    rows = torch.randint(len(labels), (size,), generator=generator)
    return inputs[rows], labels[rows]
