"""IRM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from domaingrad.bench.protocol import Floor, PowerOfTen, space

from .base import Method, MethodInfo, Updates, Weight
from .learner import Setup
from .passes import AnnealedLearner, Forward, errors


def invariance(slopes: Tensor) -> Tensor:
    """D(even half) · D(odd half) of one domain, an unbiased estimate of (E D)², so it may be < 0.

    Args:
        slopes: ∂ loss/∂s of each sample at s = 1, where its outputs are scaled by s; shape [n].
    """
    if len(slopes) < 2:
        raise ValueError(
            f"IRM's penalty compares two halves of a domain's samples and needs two of them in a "
            f"step; found {len(slopes)}. Use a larger batch."
        )
    return slopes[::2].mean() * slopes[1::2].mean()


def mean_invariance(setup: Setup, done: Forward) -> Tensor:
    """The mean over domains."""
    slopes = (errors(setup, done.outputs, done.labels) * done.outputs).sum(1)
    return torch.stack([invariance(each) for each in done.by_domain(slopes)]).mean()


class IRMLearner(AnnealedLearner["IRM"]):
    """Weight 1 before the anneal, not 0."""

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
