"""From scores to ranks and masks: the components with the highest scores are dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from domaingrad.engine import SignalToNoise

Select = Literal["high-gsnr", "low-gsnr", "high-gradient", "random"]
"""Which components are dropped: those with the highest or lowest GSNR over the units, those with
the largest mean gradient, or some drawn at random."""

BINS = 2**14
"""Bins of the histogram that tells a component's rank for the soft mask."""


def score(select: Select, moments: SignalToNoise) -> Tensor:
    """What the components are ranked by; ``"low-gsnr"`` drops the lowest, the others the highest.

    q = mean²/mean square ranks as the GSNR does; 0/0 is 0.
    """
    if select == "high-gradient":
        return moments.mean.abs()
    return moments.mean.square().div_(moments.mean_square).nan_to_num_(0.0)


def kept(scores: Tensor, count: int, lowest: bool = False) -> Tensor:
    """All but the ``count`` highest (or lowest) scores; of equal ones the first are dropped.

    >>> kept(torch.tensor([0.1, 0.9, 0.5, 0.9]), 2)
    tensor([ True, False,  True, False])
    """
    flat = scores.flatten()
    if count == 0:
        return torch.ones_like(flat, dtype=torch.bool).view(scores.shape)
    threshold = _order_statistic(flat, count, lowest)
    chosen = flat > threshold if lowest else flat < threshold
    missing = len(flat) - count - chosen.sum()
    ties = flat == threshold
    if flat.device.type != "cpu":  # where nothing waits for a number
        return (chosen | (ties & (ties.flip(0).cumsum(0).flip(0) <= missing))).view(scores.shape)
    if missing > 0:
        places = ties.nonzero()[:, 0]
        chosen[places[len(places) - int(missing) :]] = True
    return chosen.view(scores.shape)


def _order_statistic(flat: Tensor, count: int, lowest: bool) -> Tensor:
    """The ``count``-th highest (or lowest) score."""
    place = count - 1 if lowest else len(flat) - count
    if flat.device.type == "cpu":
        # Ten times faster than kthvalue.
        return torch.from_numpy(np.partition(flat.numpy(), place)[place : place + 1])[0]
    return flat.kthvalue(place + 1).values


@dataclass(frozen=True)
class Ranking:
    """The ranks of scores by a histogram from 0 to the largest of them.

    Components whose scores are less than a bin apart share the mean of their ranks. The soft mask
    alone depends on it; the masks themselves are exact.
    """

    bins: Tensor
    """The bin of each component, int32."""
    ranks: Tensor
    """u of each bin: the rank of its components over the number of all, in (0, 1], 1 for what is
    dropped first; float64."""


def ranking_of(scores: Tensor, lowest: bool = False) -> Ranking:
    """Rank scores from 0 on; bins are even in their square roots, which spread better.

    >>> ranking = ranking_of(torch.tensor([0.1, 0.9, 0.5, 0.8]))
    >>> ranking.ranks[ranking.bins].tolist()
    [0.25, 1.0, 0.5, 0.75]
    """
    roots = scores.sqrt()
    largest = roots.max()
    bins = roots.mul_(torch.where(largest > 0, (BINS - 1) / largest, 0.0)).to(torch.int32)
    counts = sums_of_bins(bins, None, BINS)
    last = counts.flip(0).cumsum(0).flip(0) if lowest else counts.cumsum(0)
    return Ranking(bins, (last - (counts - 1.0).clamp(min=0.0) / 2) / scores.numel())


def sums_of_bins(bins: Tensor, values: Tensor | None, count: int) -> Tensor:
    """The sum of the values in each bin, or without values their number; [count] in float64."""
    if bins.device.type == "cpu":
        flat = None if values is None else values.flatten()
        return torch.bincount(bins.flatten(), flat, minlength=count).double()
    # There, bincount waits for the largest bin.
    added = torch.ones_like(bins, dtype=torch.float64) if values is None else values.double()
    sums = torch.zeros(count, dtype=torch.float64, device=bins.device)
    return sums.index_add_(0, bins.flatten(), added.flatten())
