"""The few numbers per component that every element-wise rule is a function of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Statistic = Literal["mean", "m2", "sign_sum", "active", "log_sum"]
"""Names of the statistics of K gradients g_1 … g_K, each per component:

========== ==================================== =======================
``mean``     (1/K) Σ g_e                          floating
``m2``       Σ (g_e − mean)²                      floating, centred
``sign_sum`` Σ sign(g_e), with sign(0) = 0        integer in [−K, K]
``active``   number of e with g_e ≠ 0             integer in [0, K]
``log_sum``  Σ log(|g_e| + 1e-10)                 floating
========== ==================================== =======================
"""

LOG_FLOOR = 1e-10
"""Added to |g| before the logarithm, as in the AND-mask authors' code."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Statistics of one parameter's gradients over ``count`` domains.

    ``values`` holds only what was asked for. Every tensor has the parameter's shape; floating ones
    are float32 for gradients in half precision and of the gradients' dtype otherwise.
    """

    count: int
    values: Mapping[Statistic, Tensor]

    def _get(self, name: Statistic) -> Tensor:
        if name not in self.values:
            raise KeyError(
                f"statistic {name!r} was not collected; found {sorted(self.values)}. "
                f"Name it in the rule's `statistics`."
            )
        return self.values[name]

    @property
    def mean(self) -> Tensor:
        """(1/K) Σ g_e."""
        return self._get("mean")

    @property
    def m2(self) -> Tensor:
        """Σ (g_e − mean)²."""
        return self._get("m2")

    @property
    def sign_sum(self) -> Tensor:
        """Σ sign(g_e)."""
        return self._get("sign_sum")

    @property
    def active(self) -> Tensor:
        """Number of domains with g_e ≠ 0."""
        return self._get("active")

    @property
    def log_sum(self) -> Tensor:
        """Σ log(|g_e| + 1e-10)."""
        return self._get("log_sum")


def counting_dtype(count: int) -> torch.dtype:
    """The smallest integer dtype that holds sums of ``count`` signs."""
    return next(
        dtype for dtype in (torch.int8, torch.int16, torch.int32) if count <= torch.iinfo(dtype).max
    )


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which gradients of ``dtype`` are summed: float32 for half precision."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def statistics_of(
    gradients: Tensor, names: Iterable[Statistic], counting: torch.dtype | None = None
) -> Statistics:
    """Collect statistics from stacked gradients of shape [K, *shape] (two passes for ``m2``).

    Args:
        gradients: the stack.
        names: what to collect.
        counting: dtype of whole numbers; the smallest integer one, unless told.

    >>> s = statistics_of(torch.tensor([[1.0, -2.0], [3.0, 2.0]]), ["mean", "sign_sum"])
    >>> s.mean.tolist(), s.sign_sum.tolist()
    ([2.0, 0.0], [2, 0])
    """
    count = gradients.shape[0]
    g = gradients.to(accumulation_dtype(gradients.dtype))
    whole = counting or counting_dtype(count)
    sign = torch.int8 if counting is None else counting
    mean = g.mean(0)
    values: dict[Statistic, Tensor] = {}
    for name in names:
        match name:
            case "mean":
                values[name] = mean
            case "m2":
                # The second term takes back the rounding of the mean.
                deviation = g - mean
                rounding = deviation.sum(0).square() * (1 / count)
                values[name] = (deviation.square().sum(0) - rounding).clamp(min=0)
            case "sign_sum":
                values[name] = g.sign().to(sign).sum(0, dtype=whole)
            case "active":
                # By way of signs: comparisons are several times slower on a CPU.
                values[name] = g.sign().to(sign).abs().sum(0, dtype=whole)
            case "log_sum":
                values[name] = (g.abs() + LOG_FLOOR).log().sum(0)
    return Statistics(count, values)
