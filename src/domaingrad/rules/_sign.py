"""Sign agreement by whole-number thresholds, so that ties at |Σ sign| = τK are exact."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from .statistics import Statistics

TIE = 1e-9
"""Slack per domain within which τK counts as a whole number, against rounding of τ·K."""


def at_least(tau: float | Tensor, statistics: Statistics) -> Tensor:
    """1 where |Σ sign| ≥ τK, else 0; floating, as the mean. τ may be a scalar tensor."""
    least = (tau - TIE) * statistics.count
    return _indicator(statistics, least.ceil() if isinstance(least, Tensor) else math.ceil(least))


def above(tau: float | Tensor, statistics: Statistics) -> Tensor:
    """1 where |Σ sign| > τK, else 0; floating, as the mean. τ may be a scalar tensor."""
    most = (tau + TIE) * statistics.count
    whole = most.floor() if isinstance(most, Tensor) else math.floor(most)
    return _indicator(statistics, whole + 1)


def _indicator(statistics: Statistics, needed: float | Tensor) -> Tensor:
    # Small-integer arithmetic: comparisons are several times slower on a CPU.
    whole = statistics.sign_sum.abs()
    most: Any = needed.to(whole.dtype) if isinstance(needed, Tensor) else needed
    agree = whole.clamp_(most - 1, most).sub_(most - 1)
    return agree.to(statistics.mean.dtype)
