"""From scores to ranks and masks: the components with the highest scores are dropped."""

from __future__ import annotations

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

    The square root of q = mean²/mean square lies in [0, 1], spreads evenly over a histogram, and
    ranks as q and the GSNR do.
    """
    return moments.mean.abs() if select == "high-gradient" else moments.bounded.sqrt()


def kept(scores: Tensor, count: int, lowest: bool = False) -> Tensor:
    """All but the ``count`` highest (or lowest) scores; of equal ones the first are dropped.

    >>> kept(torch.tensor([0.1, 0.9, 0.5, 0.9]), 2)
    tensor([ True, False,  True, False])
    """
    if count == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    threshold = _order_statistic(scores, count, lowest)
    dropped = scores < threshold if lowest else scores > threshold
    ties = (scores == threshold).flatten().nonzero()[:, 0]
    missing = count - int(dropped.sum())
    dropped.view(-1)[ties[:missing]] = True
    return ~dropped


def _order_statistic(scores: Tensor, count: int, lowest: bool) -> Tensor:
    """The ``count``-th highest (or lowest) score."""
    flat = scores.flatten()
    place = count - 1 if lowest else len(flat) - count
    if flat.device.type == "cpu":
        # Ten times faster than kthvalue.
        return torch.from_numpy(np.partition(flat.numpy(), place)[place : place + 1])[0]
    return flat.kthvalue(place + 1).values


def ranks(scores: Tensor, lowest: bool = False) -> Tensor:
    """The rank of each score among all, over their number: in (0, 1], 1 for what goes first.

    By a histogram from 0 to the largest score, so that components less than a bin apart share the
    highest of their ranks. The soft mask alone depends on it.

    >>> ranks(torch.tensor([0.1, 0.9, 0.5, 0.8]))
    tensor([0.2500, 1.0000, 0.5000, 0.7500])
    """
    largest = scores.max()
    scale = torch.where(largest > 0, (BINS - 1) / largest, 0.0)
    places = (scores * scale).to(torch.int32)
    counts = torch.bincount(places.flatten(), minlength=BINS)
    counts = counts.flip(0).cumsum(0).flip(0) if lowest else counts.cumsum(0)
    return (counts / scores.numel()).to(scores.dtype)[places.long()]
