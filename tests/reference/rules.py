"""Every rule in float64 NumPy, as literal as its equation in the paper; shares no code with src.

``G`` is an array [K, P]: one gradient a row. Loops are left in where they are the equation.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def mean(G: Array) -> Array:
    total = np.zeros_like(G[0])
    for g in G:
        total += g
    return total / len(G)


def sign_sum(G: Array) -> list[int]:
    return [int(np.sign(column).sum()) for column in G.T]


def threshold(tau: float) -> Fraction:
    """The fraction that was typed: 3/5 for 0.6, 1/3 for 1/3; so |Σ sign| = τK is an exact tie."""
    return Fraction(tau).limit_denominator(10**6)


def and_mask(
    G: Array, tau: float = 1.0, rescale: bool = True, average: str = "arithmetic"
) -> Array:
    K = len(G)
    mask = np.array([float(Fraction(abs(s), K) >= threshold(tau)) for s in sign_sum(G)])
    if average == "geometric":
        average_gradient = np.sign(mean(G)) * np.exp(mean(np.log(np.abs(G) + 1e-10)))
    else:
        average_gradient = mean(G)
    update = mask * average_gradient
    return update / (1e-10 + mask.mean()) if rescale and update.size else update


def variance(column: Sequence[float]) -> float:
    """Unbiased, two passes."""
    average = math.fsum(column) / len(column)
    return math.fsum((g - average) ** 2 for g in column) / (len(column) - 1)


def sand_weights(G: Array, tau: float, k: float, variance_of: str = "absolute") -> Array:
    """m, with the limit v → 0."""
    K = len(G)
    m = []
    for column, signs in zip(G.T.tolist(), sign_sum(G), strict=True):
        margin = Fraction(abs(signs), K) - threshold(tau)
        v = variance(column)
        if variance_of == "relative" and v > 0:
            average = math.fsum(column) / K
            v = v / average**2 if average != 0 else math.inf
        if margin <= 0:
            m.append(0.0)
        elif v == 0:
            m.append(1.0)
        else:
            m.append(math.tanh(k * float(margin) / v))
    return np.array(m)


def sand_mask(G: Array, tau: float, k: float, variance: str = "absolute") -> Array:
    m = sand_weights(G, tau, k, variance)
    return m * mean(G) / (1e-10 + m.mean()) if m.size else m


def agree(G: Array) -> NDArray[np.bool_]:
    return np.array([abs(s) == len(G) for s in sign_sum(G)], dtype=bool)


def agr_sum(G: Array) -> Array:
    return np.where(agree(G), mean(G) * len(G), 0.0)


def agr_noise_scale(G: Array) -> float:
    """Agr-Rand's s: the mean of |Σ g| over the agreeing components, 0 where there is none."""
    sizes = [
        abs(math.fsum(column))
        for column, agrees in zip(G.T.tolist(), agree(G), strict=True)
        if agrees
    ]
    return math.fsum(sizes) / len(sizes) if sizes else 0.0


def silent(G: Array) -> NDArray[np.bool_]:
    return np.array([not column.any() for column in G.T], dtype=bool)


def pcgrad_projected(G: Array, i: int, order: Iterable[int]) -> Array:
    """g_i' of Algorithm 1 of arXiv 2001.06782, with the j ≠ i in the given order."""
    g = G[i].copy()
    for j in order:
        product = float(g @ G[j])
        if product < 0:
            g -= product / float(G[j] @ G[j]) * G[j]
    return g


def pcgrad(G: Array, orders: Sequence[Sequence[int]]) -> Array:
    """The update when ``orders[i]`` is the order of the j ≠ i."""
    return np.sum([pcgrad_projected(G, i, order) for i, order in enumerate(orders)], axis=0)


def pcgrad_of_all_orders(G: Array) -> Array:
    """The updates of all ((K−1)!)^K choices of one order for each i, one a row."""
    K = len(G)
    projected = [
        [
            pcgrad_projected(G, i, order)
            for order in itertools.permutations(j for j in range(K) if j != i)
        ]
        for i in range(K)
    ]
    return np.array([np.sum(choice, axis=0) for choice in itertools.product(*projected)])


def pcgrad_in_order(G: Array) -> Array:
    """Orders 0, 1, …; for matrices whose update does not depend on the order."""
    K = len(G)
    return pcgrad(G, [[j for j in range(K) if j != i] for i in range(K)])
