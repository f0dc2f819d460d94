"""Are gradients of one domain more alike than gradients of different domains?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from .conflict import conflict

RESAMPLES = 1000
LEVEL = 0.95
"""Of the intervals."""


@dataclass(frozen=True)
class Interval:
    """A mean over pairs with its bootstrap interval of 95 %."""

    mean: float
    low: float
    high: float
    pairs: int


@dataclass(frozen=True)
class Similarity:
    """Mean cosines of gradients of the same class."""

    intra: Interval
    """Of batches of the same domain."""
    inter: Interval
    """Of batches of different domains."""


def similarity(
    model: nn.Module,
    inputs: Any,
    loss_fn: Callable[[Any], Tensor],
    domain: Tensor,
    label: Tensor,
    *,
    batches: int = 2,
    generator: Generator | None = None,
    **options: Any,
) -> Similarity:
    """Mean cosine of gradients within domains and between domains, class by class.

    Mansilla et al. (arXiv 2108.01621) compare batches of one domain (intra) and of two (inter),
    all of one class, so that the mix of classes is not what differs. Here the samples of each
    domain and class are dealt out at random to ``batches`` batches, and all pairs of the same class
    count. Ours: the intervals, by bootstrap over batches (drawn with replacement, pairs of a batch
    with itself left out), percentiles of 1000 draws.

    Args:
        model: the model; it is left as it was.
        inputs: as it takes them, every tensor with the N samples along its first dimension.
        loss_fn: from the model's outputs to the loss of each sample, [N].
        domain: integer tensor of shape [N].
        label: integer tensor of shape [N], the class of each sample.
        batches: of each domain and class; more where there are many samples.
        generator: on the CPU, deals and draws; without one, a generator with seed 0.
        **options: passed to the model as they are.

    Raises:
        ValueError: fewer than two batches, a domain and class with fewer samples than batches, a
            class that is in one domain only throughout.

    >>> x = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    >>> domain, label = torch.tensor([0, 0, 1, 1]), torch.zeros(4, dtype=torch.long)
    >>> found = similarity(nn.Linear(2, 1, bias=False), x, lambda out: out[:, 0], domain, label)
    >>> found.intra.mean, found.inter.mean
    (1.0, 0.0)
    """
    if batches < 2:
        raise ValueError(f"batches must be at least 2, for pairs of one domain; found {batches}.")
    generator = generator or Generator().manual_seed(0)
    units = _dealt(domain, label, batches, generator)
    first = torch.stack([(units == unit).nonzero()[0, 0] for unit in range(int(units.max()) + 1)])
    of_domain, of_label = domain.cpu()[first], label.cpu()[first]
    same_class = (of_label[:, None] == of_label[None, :]).triu(1)
    same_domain = of_domain[:, None] == of_domain[None, :]
    if not (same_class & ~same_domain).any():
        raise ValueError(
            "no class is in two domains, so nothing can be compared between domains without the "
            "mix of classes; name other classes as label."
        )
    cosines = conflict(model, inputs, loss_fn, units.to(domain.device), **options).cosines
    return Similarity(
        _interval(cosines, same_class & same_domain, generator),
        _interval(cosines, same_class & ~same_domain, generator),
    )


def _dealt(domain: Tensor, label: Tensor, batches: int, generator: Generator) -> Tensor:
    """The batch of each sample, numbered through all domains and classes."""
    units = torch.empty(len(domain), dtype=torch.long)
    kinds = torch.stack([domain.cpu(), label.cpu()], dim=1)
    for number, kind in enumerate(torch.unique(kinds, dim=0)):
        rows = (kinds == kind).all(1).nonzero().flatten()
        if len(rows) < batches:
            raise ValueError(
                f"domain {int(kind[0])} has {len(rows)} samples of class {int(kind[1])}, too few "
                f"for {batches} batches; take more samples, or leave that class out."
            )
        shuffled = rows[torch.randperm(len(rows), generator=generator)]
        units[shuffled] = number * batches + torch.arange(len(rows)) % batches
    return units


def _interval(cosines: Tensor, pairs: Tensor, generator: Generator) -> Interval:
    """Mean over the marked pairs whose cosine is defined, and its percentiles over resamples."""
    pairs = pairs & cosines.isfinite()
    count = len(cosines)
    draws = torch.randint(count, (RESAMPLES, count), generator=generator)
    times = torch.zeros(RESAMPLES, count, dtype=torch.float64)
    times.scatter_add_(1, draws, torch.ones_like(times))
    marked = pairs.double()
    total = torch.einsum("ri,ij,rj->r", times, marked * cosines.nan_to_num(), times)
    weight = torch.einsum("ri,ij,rj->r", times, marked, times)
    means = (total / weight)[weight > 0]
    tail = (1 - LEVEL) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(cosines[pairs].mean().item(), low, high, int(pairs.sum()))
