"""Distances between domains' features: CORAL's, of moments, and MMD's, of kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from .passes import Members, spread

BANDWIDTHS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
"""Of MMD's kernels, as in DomainBed."""
FEWEST = 2
"""Samples of a set whose covariance is taken."""


def coral(features: Tensor, members: Members) -> Tensor:
    """The mean over pairs of sets of mean_d (μ_i − μ_j)² + mean_{d×d} (C_i − C_j)².

    As in DomainBed; arXiv 1607.01719 has covariances alone, and ‖·‖²/(4d²). Where there are fewer
    samples than features, products of samples give the same without a matrix of d².

    Args:
        features: [N, d], set after set.
        members: which set they are of.

    Raises:
        ValueError: a set of one sample, which has no covariance.
    """
    if min(members.sizes) < FEWEST:
        raise ValueError(
            f"CORAL takes covariances and needs {FEWEST} samples of each domain in a step; found "
            f"{min(members.sizes)}. Use a larger batch."
        )
    width = features.shape[1]
    means = members.shares(features) @ features
    every = [mean.expand(n, -1) for mean, n in zip(means, members.sizes, strict=True)]
    centred = features - torch.cat(every)
    unbiased = members.shares(features, lost=1)
    if len(features) < width:
        products = unbiased @ (centred @ centred.T).square() @ unbiased.T
        covariances = spread(products) / width**2
    else:
        parts = zip(members.split(centred), members.split(unbiased.sum(0)), strict=True)
        covariances = _variance(torch.stack([(z * share[:, None]).T @ z for z, share in parts]))
    return _variance(means) + covariances


def mmd(features: Tensor, members: Members, bandwidths: tuple[float, ...] = BANDWIDTHS) -> Tensor:
    """The mean over pairs of sets of mean k(x, x) + mean k(y, y) − 2 mean k(x, y), as in DomainBed.

    k(a, b) = Σ_γ exp(−γ ‖a − b‖²), diagonals included, distances by differences of components.

    Args:
        features: [N, d], set after set.
        members: which set they are of.
        bandwidths: the γ.
    """
    mean = members.shares(features)
    return spread(mean @ kernels(features, bandwidths) @ mean.T)


def kernels(features: Tensor, bandwidths: tuple[float, ...]) -> Tensor:
    """Σ_γ exp(−γ ‖a − b‖²) of all pairs, [N, N]."""
    exact = "donot_use_mm_for_euclid_dist"
    squares = torch.cdist(features, features, compute_mode=exact).square()
    return torch.stack([(-gamma * squares).exp() for gamma in bandwidths]).sum(0)


def _variance(each: Tensor) -> Tensor:
    """The mean over pairs of the mean of squared differences of entries, from [K, *shape]."""
    return 2 / max(len(each) - 1, 1) * (each - each.mean(0)).square().sum(0).mean()
