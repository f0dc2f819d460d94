"""The few numbers per component that every element-wise rule is a function of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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


def statistics_of(gradients: Tensor, names: Iterable[Statistic]) -> Statistics:
    """Collect statistics from stacked gradients of shape [K, *shape].

    One pass over the K slices without branches on their values, so that a compiler makes one loop
    of it and of the rule.

    >>> s = statistics_of(torch.tensor([[1.0, -2.0], [3.0, 2.0]]), ["mean", "sign_sum"])
    >>> s.mean.tolist(), s.sign_sum.tolist()
    ([2.0, 0.0], [2, 0])
    """
    count = gradients.shape[0]
    slices = gradients.to(accumulation_dtype(gradients.dtype)).unbind(0)
    names = frozenset(names)
    values: dict[Statistic, Tensor] = {}
    mean = _sum(slices) / count
    if "m2" in names:
        deviations = [g - mean for g in slices]
        # The second term takes back the rounding of the mean.
        rounding = _sum(deviations).square() / count
        values["m2"] = (_sum([d.square() for d in deviations]) - rounding).clamp(min=0)
    if "mean" in names:
        values["mean"] = mean
    signs = [g.sign().to(torch.int8) for g in slices] if names & {"sign_sum", "active"} else []
    if "sign_sum" in names:
        values["sign_sum"] = _sum(signs, counting_dtype(count))
    if "active" in names:
        values["active"] = _sum([sign.abs() for sign in signs], counting_dtype(count))
    if "log_sum" in names:
        values["log_sum"] = _sum([(g.abs() + LOG_FLOOR).log() for g in slices])
    return Statistics(count, values)


def _sum(terms: Sequence[Tensor], dtype: torch.dtype | None = None) -> Tensor:
    total = terms[0].to(dtype or terms[0].dtype)
    for term in terms[1:]:
        total = total + term
    return total
