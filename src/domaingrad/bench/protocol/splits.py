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
    strata: tuple[Tensor, ...] = ()
    """``train`` by class, where batches are to hold as many samples of each."""


def split_domain(data: TensorDataset, generator: Generator, groups: Tensor | None = None) -> Split:
    """Split a domain at random.

    Args:
        data: inputs and labels.
        generator: of what is drawn.
        groups: numbers of what must not be torn apart, as frames of one video, shape [n]. Groups
            are split class by class (ours), and there is a stratum for each class.
    """
    if groups is None:
        order = torch.randperm(len(data), generator=generator)
        train, val = order.tensor_split([int(TRAIN_SHARE * len(data))])
        return Split(data, train, val)
    labels = data.tensors[1]
    trained = torch.zeros(len(data), dtype=torch.bool)
    for label in torch.unique(labels):
        own = torch.unique(groups[labels == label])
        order = own[torch.randperm(len(own), generator=generator)]
        # One at least to validate with, if there are two.
        count = min(int(TRAIN_SHARE * len(own)) or 1, max(1, len(own) - 1))
        trained |= torch.isin(groups, order[:count]) & (labels == label)
    strata = [(trained & (labels == label)).nonzero().flatten() for label in torch.unique(labels)]
    return Split(
        data,
        trained.nonzero().flatten(),
        (~trained).nonzero().flatten(),
        tuple(rows for rows in strata if len(rows)),
    )
