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
    """Parts of ``train``, where batches are to hold as many samples of each."""


def split_domain(data: TensorDataset, generator: Generator, groups: Tensor | None = None) -> Split:
    """Split a domain at random.

    Args:
        data: inputs and labels.
        generator: of what is drawn.
        groups: numbers of what must not be torn apart, as frames of one video, shape [n].
    """
    if groups is None:
        order = torch.randperm(len(data), generator=generator)
        train, val = order.tensor_split([int(TRAIN_SHARE * len(data))])
        return Split(data, train, val)
    trained = torch.isin(groups, trained_groups(data.tensors[1], groups, generator))
    return of_trained(data, trained)


def of_trained(data: TensorDataset, trained: Tensor) -> Split:
    """The split whose ``train`` a mask tells, in the order of the data."""
    return Split(data, trained.nonzero().flatten(), (~trained).nonzero().flatten())


def trained_groups(labels: Tensor, groups: Tensor, generator: Generator) -> Tensor:
    """Groups to train on, at random: 80 % of those of each class, as far as there are any (ours).

    A group is of the class that most of its samples have; numbers have no classes.

    Args:
        labels: of the samples, shape [n].
        groups: their numbers, shape [n].
        generator: of what is drawn.
    """
    if labels.is_floating_point():
        labels = torch.zeros_like(groups)
    counts = torch.zeros(int(groups.max()) + 1, int(labels.max()) + 1, dtype=torch.long)
    counts.index_put_((groups, labels), torch.ones_like(groups), accumulate=True)
    of_class = counts.argmax(1).masked_fill(counts.sum(1) == 0, -1)
    trained = []
    for label in range(counts.shape[1]):
        own = (of_class == label).nonzero().flatten()
        order = own[torch.randperm(len(own), generator=generator)]
        # One at least to validate with, if there are two.
        trained.append(order[: min(int(TRAIN_SHARE * len(own)) or 1, max(1, len(own) - 1))])
    return torch.cat(trained)


def strata_of(rows: Tensor, kinds: Tensor) -> tuple[Tensor, ...]:
    """Rows by what they are of.

    Args:
        rows: of a domain.
        kinds: of all its samples, as their classes or groups.

    >>> strata_of(torch.tensor([0, 2, 3]), torch.tensor([1, 0, 0, 1]))
    (tensor([2]), tensor([0, 3]))
    """
    own = kinds[rows]
    return tuple(rows[own == kind] for kind in torch.unique(own))
