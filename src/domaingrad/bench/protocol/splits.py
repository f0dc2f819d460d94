"""The two splits of a domain (DomainBed, arXiv 2007.01434, which calls them in and out)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.utils.data import TensorDataset

TRAIN_SHARE = 0.8


@dataclass(frozen=True)
class Split:
    """``train`` (80 %) and ``val`` (20 %) of one domain, as rows of its data.

    Of a source domain, ``train`` is trained on and ``val`` selects. Of the held-out domain,
    ``train`` is what the score is taken on, as in DomainBed, and ``val`` is left for the oracle.
    """

    data: TensorDataset
    train: Tensor
    val: Tensor


def split_domain(data: TensorDataset, generator: Generator) -> Split:
    """Split a domain at random."""
    order = torch.randperm(len(data), generator=generator)
    train, val = order.tensor_split([int(TRAIN_SHARE * len(data))])
    return Split(data, train, val)
