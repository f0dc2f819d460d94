"""IRM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from domaingrad.bench.protocol import Floor, PowerOfTen, space

from .base import Method, MethodInfo, Updates, Weight
from .learner import Setup
from .passes import AnnealedLearner, Forward, errors

FEWEST = 2
"""Samples of a domain, of which each half has one."""


def mean_invariance(setup: Setup, done: Forward) -> Tensor:
    """The mean over domains of D(even half) · D(odd half), an unbiased estimate of (E D)².

    So it may be < 0. D is the mean of ∂ loss/∂s at s = 1, where outputs are scaled by s.
    """
    if min(done.sizes) < FEWEST:
        raise ValueError(
            f"IRM's penalty compares two halves of a domain's samples and needs two of them in a "
            f"step; found {min(done.sizes)}. Use a larger batch."
        )
    slopes = (errors(setup, done.outputs, done.labels) * done.outputs).sum(1)
    even, odd = (done.members.every_second(begin, slopes) for begin in (0, 1))
    return (even * odd).mean()


class IRMLearner(AnnealedLearner["IRM"]):
    """Weight 1 before the anneal, not 0."""

    stacks: ClassVar[bool] = True
    early: ClassVar[float] = 1.0

    def penalty(self, done: Forward) -> Tensor:
        """Of all domains."""
        return mean_invariance(self.setup, done)


@dataclass(frozen=True)
class IRM(Method):
    """R̄ + w (1/K) Σ_e D_e(even) D_e(odd), D = ∂/∂s R(s · outputs) at s = 1.

    arXiv 1907.02893 §3; estimator, early weight and Adam's new beginning as in DomainBed.
    """

    info = MethodInfo(
        name="irm",
        title="IRM",
        summary="a classifier that is best in every domain at once: its gradient is small in each",
        paper="arXiv 1907.02893",
    )
    search = space(weight=PowerOfTen(-1, 5), anneal=Floor(PowerOfTen(0, 4)))
    code = IRMLearner

    weight: Weight = 100.0
    anneal: Updates = 500
