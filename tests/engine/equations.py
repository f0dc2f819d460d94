"""The rules' equations in literal NumPy, over all parameters of a model together.

Written from METHODS.md §2. ``G`` maps a parameter's name to its gradients of shape [K, *shape].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Stacks = dict[str, Array]
Updates = dict[str, Array]


def mean(G: Stacks) -> Updates:
    return {name: g.mean(0) for name, g in G.items()}


def and_mask(tau: float, rescale: bool) -> Callable[[Stacks], Updates]:
    def update(g: Array) -> Array:
        mask = np.abs(np.sign(g).mean(0)) >= tau
        masked = mask * g.mean(0)
        return masked / (1e-10 + mask.mean()) if rescale else masked

    return lambda G: {name: update(g) for name, g in G.items()}


def sand_mask(tau: float, k: float) -> Callable[[Stacks], Updates]:
    def update(g: Array) -> Array:
        variance = g.var(0, ddof=1)
        margin = np.abs(np.sign(g).mean(0)) - tau
        with np.errstate(divide="ignore", invalid="ignore"):
            m = np.maximum(0.0, np.tanh(k * margin / variance))
        m = np.where(variance == 0, margin > 0, m)
        return m * g.mean(0) / (1e-10 + m.mean())

    return lambda G: {name: update(g) for name, g in G.items()}


def agr_sum(G: Stacks) -> Updates:
    return {name: agreeing(g) * g.sum(0) for name, g in G.items()}


def agreeing(g: Array) -> NDArray[np.bool_]:
    return np.abs(np.sign(g).sum(0)) == g.shape[0]


def agr_rand_scale(G: Stacks) -> float:
    """Mean of |Σ g_e| over the agreeing components of the whole model."""
    sums = np.concatenate([np.abs(g.sum(0))[agreeing(g)] for g in G.values()])
    return float(sums.mean())


def pcgrad_of_two(G: Stacks) -> Updates:
    """Two domains: each projected off the other, so that no order is drawn."""
    flat = np.concatenate([g.reshape(2, -1) for g in G.values()], axis=1)
    a, b = flat
    product = a @ b
    total = a + b
    if product < 0:
        total -= product / (b @ b) * b + product / (a @ a) * a
    updates, start = {}, 0
    for name, g in G.items():
        size = g[0].size
        updates[name] = total[start : start + size].reshape(g.shape[1:])
        start += size
    return updates
