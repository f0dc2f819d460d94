"""SAGM."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from domaingrad.bench.protocol import Choice, space

from .base import MethodInfo, Weight
from .sam import FLOOR, SAM, SharpnessLearner


class SAGMLearner(SharpnessLearner["SAGM"]):
    """Climbs a little less, and takes the mean of both gradients."""

    def climb(self, gradients: list[Tensor], norm: Tensor) -> list[Tensor]:
        """ρ/‖g‖ − α times the gradient."""
        factor = self.hp.rho / (norm + FLOOR) - self.hp.alpha
        return list(torch._foreach_mul(gradients, factor))

    def combined(self, first: list[Tensor], second: list[Tensor]) -> list[Tensor]:
        """Their mean."""
        return list(torch._foreach_lerp(first, second, 0.5))


@dataclass(frozen=True)
class SAGM(SAM):
    """½ [∇R̄(θ) + ∇R̄(θ + ρ ∇R̄/‖∇R̄‖ − α ∇R̄)].

    arXiv 2303.10353 §3, which minimises the sum of both risks; the mean is the authors' code's.
    """

    info = MethodInfo(
        name="sagm",
        title="SAGM",
        summary="low and flat at once: gradients here and nearby, aligned with each other",
        paper="arXiv 2303.10353",
        cost="2 passes",
        baselines=("erm", "sam"),
    )
    search = space(rho=Choice((0.01, 0.02, 0.05, 0.1)), alpha=Choice((0.01, 0.02, 0.05, 0.1)))
    code = SAGMLearner

    alpha: Weight = 0.001
