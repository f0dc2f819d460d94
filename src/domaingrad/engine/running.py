"""Statistics of gradients that arrive one domain at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from domaingrad.rules.authoring import Statistic, Statistics
from domaingrad.rules.statistics import LOG_FLOOR, accumulation_dtype, counting_dtype


class RunningStatistics:
    """Statistics of one parameter's gradients, fed one domain at a time.

    Memory does not depend on the number of domains. ``m2`` follows Welford's update (zeros: Chan's
    merge), which does not cancel when the variance is far below the squared mean; without ``m2``,
    the mean is a plain sum divided at the end.

    Args:
        names: the statistics to collect; ``mean`` always is.

    >>> running = RunningStatistics(["m2"])
    >>> for g in (1.0, 2.0, 3.0):
    ...     running.fold(torch.tensor([g]))
    >>> running.statistics().mean.item(), running.statistics().m2.item()
    (2.0, 2.0)
    """

    def __init__(self, names: Iterable[Statistic]) -> None:
        self.names: frozenset[Statistic] = frozenset(names) | {"mean"}
        self.count = 0
        self._floating: dict[Statistic, Tensor] = {}
        self._integer: dict[Statistic, Tensor] = {}

    @property
    def _centred(self) -> bool:
        return "m2" in self.names

    def fold(self, gradient: Tensor) -> None:
        """Take in one more domain's gradient. The tensor becomes ours to overwrite."""
        g = gradient.detach().to(accumulation_dtype(gradient.dtype))
        self.count += 1
        self._fold_signs(g)
        if "log_sum" in self.names:
            logarithm = (g.abs() + LOG_FLOOR).log_()
            if self.count == 1:
                self._floating["log_sum"] = logarithm
            else:
                self._floating["log_sum"] += logarithm
        if self.count == 1:
            self._floating["mean"] = g
            if self._centred:
                self._floating["m2"] = torch.zeros_like(g)
        elif self._centred:
            mean = self._floating["mean"]
            delta = g.sub_(mean)
            mean.add_(delta, alpha=1 / self.count)
            self._floating["m2"].addcmul_(delta, delta, value=(self.count - 1) / self.count)
        else:
            self._floating["mean"] += g

    def _fold_signs(self, g: Tensor) -> None:
        if self.count == 1:
            for name in self.names & {"sign_sum", "active"}:
                self._integer[name] = torch.zeros_like(g, dtype=torch.int8)
        self._widen(self.count)
        if self._integer:
            # By way of floating signs: comparisons are several times slower on a CPU.
            sign = g.sign().to(torch.int8)
            if "sign_sum" in self.names:
                self._integer["sign_sum"] += sign
            if "active" in self.names:
                self._integer["active"] += sign.abs_()

    def _widen(self, count: int) -> None:
        dtype = counting_dtype(count)
        if any(s.dtype != dtype for s in self._integer.values()):
            self._integer = {name: s.to(dtype) for name, s in self._integer.items()}

    def fold_zeros(self, count: int) -> None:
        """Take in ``count`` more domains whose gradient is zero, at the price of one."""
        if count == 0:
            return
        if self.count == 0:
            raise ValueError("fold at least one gradient before zeros, to know their shape")
        total = self.count + count
        self._widen(total)
        if self._centred:
            mean = self._floating["mean"]
            self._floating["m2"].addcmul_(mean, mean, value=self.count * count / total)
            mean.mul_(self.count / total)
        if "log_sum" in self.names:
            self._floating["log_sum"] += count * math.log(LOG_FLOOR)
        self.count = total

    def statistics(self) -> Statistics:
        """The statistics so far; a later fold may overwrite their tensors."""
        values: dict[Statistic, Tensor] = {**self._floating, **self._integer}
        if not self._centred:
            values["mean"] = values["mean"] / self.count
        return Statistics(self.count, values)
