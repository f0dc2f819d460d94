"""Sign agreement by whole-number thresholds, so that ties at |Σ sign| = τK are exact."""

from __future__ import annotations

import math

from torch import Tensor

from .statistics import Statistics

TIE = 1e-9
"""Slack per domain within which τK counts as a whole number, against rounding of τ·K."""


def at_least(tau: float, statistics: Statistics) -> Tensor:
    """1 where |Σ sign| ≥ τK, else 0; floating, as the mean."""
    return _indicator(statistics, math.ceil((tau - TIE) * statistics.count))


def above(tau: float, statistics: Statistics) -> Tensor:
    """1 where |Σ sign| > τK, else 0; floating, as the mean."""
    return _indicator(statistics, math.floor((tau + TIE) * statistics.count) + 1)


def _indicator(statistics: Statistics, needed: int) -> Tensor:
    # Small-integer arithmetic: comparisons are several times slower on a CPU.
    agree = statistics.sign_sum.abs().clamp_(needed - 1, needed).sub_(needed - 1)
    return agree.to(statistics.mean.dtype)
