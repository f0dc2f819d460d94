"""Sign agreement by whole-number thresholds, so that ties at |Σ sign| = τK are exact."""

from __future__ import annotations

import math

from torch import Tensor

TIE = 1e-9
"""Slack per domain within which τK counts as a whole number, against rounding of τ·K."""


def at_least(sign_sum: Tensor, tau: float, count: int) -> Tensor:
    """Where |Σ sign| ≥ τK."""
    return sign_sum.abs() >= math.ceil((tau - TIE) * count)


def above(sign_sum: Tensor, tau: float, count: int) -> Tensor:
    """Where |Σ sign| > τK."""
    return sign_sum.abs() > math.floor((tau + TIE) * count)
