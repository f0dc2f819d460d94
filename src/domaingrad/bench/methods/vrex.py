"""V-REx."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from domaingrad.bench.protocol import Floor, PowerOfTen, space

from .base import Method, MethodInfo, Requires, Updates, Weight
from .passes import Anneal, RiskWeightsLearner


def multipliers(risks: Tensor, weight: float) -> Tensor:
    """m_e = 1 + 2w (R_e − R̄), so that (1/K) Σ_e m_e g_e is the gradient of R̄ + w Var_e(R_e)."""
    return 1 + 2 * weight * (risks - risks.mean())


class VRExLearner(Anneal["VREx"], RiskWeightsLearner["VREx"]):
    """Weight 1 before the anneal, not 0."""

    stacks: ClassVar[bool] = True
    early: ClassVar[float] = 1.0

    def multipliers(self, risks: Tensor) -> Tensor:
        """Of this update."""
        return multipliers(risks, self.weight())


@dataclass(frozen=True)
class VREx(Method):
    """R̄ + w (1/K) Σ_e (R_e − R̄)², as weights on the domains' gradients.

    arXiv 2003.00688 §3.1, with the mean of the risks for their sum, as in DomainBed.
    """

    info = MethodInfo(
        name="vrex",
        title="V-REx",
        summary="equal risks in all domains: their variance is penalised",
        paper="arXiv 2003.00688",
    )
    search = space(weight=PowerOfTen(-1, 5), anneal=Floor(PowerOfTen(0, 4)))
    requires = Requires(sharding="sample by sample")
    code = VRExLearner

    weight: Weight = 10.0
    anneal: Updates = 500
