"""GroupDRO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from domaingrad.bench.protocol import PowerOfTen, space

from .base import MethodInfo, Requires, TwoReadings, Within
from .passes import RiskWeightsLearner


class GroupDROLearner(RiskWeightsLearner["GroupDRO"]):
    """Keeps the weights of the domains from update to update."""

    stacks: ClassVar[bool] = True
    q: Tensor

    def build(self) -> None:
        """Equal weights."""
        count = len(self.setup.domains)
        self.keep(q=torch.full((count,), 1 / count))

    def multipliers(self, risks: Tensor) -> Tensor:
        """K q, after q has grown by the risks; a softmax of logarithms, so nothing overflows."""
        self.q = (self.q.log() + self.hp.eta * risks).softmax(0).to(self.q)
        return self.q * (1 if self.hp.as_published else len(risks))


@dataclass(frozen=True)
class GroupDRO(TwoReadings):
    """q_e ← q_e exp(η R_e), q ← q/Σq, loss Σ_e q_e R_e, q without gradient.

    arXiv 1911.08731, algorithm 1, with domains for groups, as in DomainBed. As published: loss/K
    (DomainBed at 7df6f06).
    """

    meant = MethodInfo(
        name="groupdro",
        title="GroupDRO",
        summary="the worst domain counts most: weights that grow with the risks",
        paper="arXiv 1911.08731",
    )
    published = "GroupDRO with its loss divided by the number of domains"
    search = space(eta=PowerOfTen(-3, -1))
    requires = Requires(sharding="sample by sample")
    code = GroupDROLearner

    eta: Annotated[float, Within("the worst domain is to gain weight", 0, 1e3)] = 1e-2
