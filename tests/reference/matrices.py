"""Stacked gradients to try rules on: every kind of agreement, count, shape, dtype and scale."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from .rules import Array

COUNTS = (2, 3, 5, 16, 130, 200)
"""Numbers of domains; the sign sums of the last two do not fit int8."""

SHAPES = ((), (12,), (3, 4))

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

SCALES = {
    # 2^±27 is about 1e±8; powers of two keep the exact cancellations of "whole" exact.
    torch.float64: (2.0**-27, 2.0**-10, 1.0, 2.0**27),
    torch.float32: (2.0**-27, 2.0**-10, 1.0, 2.0**27),
    torch.bfloat16: (2.0**-27, 2.0**-10, 1.0, 2.0**27),
    # Sums of 200 gradients must stay below float16's 65504.
    torch.float16: (2.0**-10, 1.0, 8.0),
}

Random = np.random.Generator


def _generic(random: Random, K: int, P: int) -> Array:
    return random.standard_normal((K, P))


def _shares(random: Random, K: int, P: int) -> Array:
    """Each component has its own share of positive gradients, from none to all."""
    positive = random.random((K, P)) < np.linspace(0, 1, P)
    return np.abs(random.standard_normal((K, P))) * np.where(positive, 1.0, -1.0)


def _zeros(random: Random, K: int, P: int) -> Array:
    """Exact zeros, the first component zero in every domain."""
    gradients = _shares(random, K, P) * (random.random((K, P)) < 0.8)
    gradients[:, 0] = 0.0
    return gradients


def _agreeing(random: Random, K: int, P: int) -> Array:
    return np.abs(random.standard_normal((K, P))) * np.where(np.arange(P) % 2, 1.0, -1.0)


def _opposed(random: Random, K: int, P: int) -> Array:
    """Signs alternate over the domains: none or one is left over."""
    signs = np.where(np.arange(K) % 2, 1.0, -1.0)
    return np.abs(random.standard_normal((K, P))) * signs[:, None]


def _whole(random: Random, K: int, P: int) -> Array:
    """Small whole numbers: exact ties, cancellations and equal gradients."""
    return random.integers(-2, 3, (K, P)).astype(np.float64)


def _single_domain(random: Random, K: int, P: int) -> Array:
    """All but one domain is zero."""
    gradients = np.zeros((K, P))
    gradients[-1] = random.standard_normal(P)
    return gradients


KINDS: dict[str, Callable[[Random, int, int], Array]] = {
    "generic": _generic,
    "shares": _shares,
    "zeros": _zeros,
    "agreeing": _agreeing,
    "opposed": _opposed,
    "whole": _whole,
    "single-domain": _single_domain,
}


def matrix(kind: str, K: int, P: int, seed: int = 0) -> Array:
    """One matrix [K, P] of a kind."""
    return KINDS[kind](np.random.default_rng([seed, K, P]), K, P)


def stacks(kind: str, K: int, dtype: torch.dtype) -> Iterator[Tensor]:
    """The kind in every shape and at every scale of the dtype."""
    for seed, shape in enumerate(SHAPES):
        gradients = matrix(kind, K, int(np.prod(shape)), seed)
        for scale in SCALES[dtype]:
            yield torch.tensor(gradients * scale, dtype=dtype).reshape(K, *shape)


def rows(stack: Tensor) -> Array:
    """A stack as the float64 matrix [K, P] for the reference; half precision is exact in it."""
    return stack.double().reshape(len(stack), -1).numpy()
