"""Information bottlenecks: IB-ERM and IB-IRM."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from domaingrad.bench.protocol import Floor, PowerOfTen, space

from .base import Method, MethodInfo, Requires, Updates, Weight
from .irm import mean_invariance
from .learner import Batches
from .passes import AnnealedLearner, Forward, forward


def bottleneck(done: Forward) -> Tensor:
    """(1/K) Σ_e mean_d Var_n(z_e), unbiased."""
    return torch.stack([z.var(0).mean() for z in done.by_domain(done.features)]).mean()


class IBERMLearner(AnnealedLearner["IBERM"]):
    """Weight 0 before the anneal."""

    def penalty(self, done: Forward) -> Tensor:
        """The features' variance."""
        return bottleneck(done)


class IBIRMLearner(AnnealedLearner["IBIRM"]):
    """Adam begins anew at either anneal."""

    def coming(self) -> None:
        """Forget Adam's moments."""
        if self.step in (self.hp.anneal, self.hp.irm_anneal):
            self.restart(self.optimizer)

    def objective(self, batches: Batches) -> Tensor:
        """Risk, bottleneck, and IRM's penalty, whose early weight is 1."""
        done = forward(self.setup, batches)
        late = self.step >= self.hp.irm_anneal
        return self.total(
            risk=done.risk,
            penalty=self.weight() * bottleneck(done),
            invariance=(self.hp.irm_weight if late else 1.0) * mean_invariance(self.setup, done),
        )


@dataclass(frozen=True)
class IBERM(Method):
    """R̄ + w · the mean variance of features within a domain (arXiv 2106.06607, as DomainBed)."""

    info = MethodInfo(
        name="ib-erm",
        title="IB-ERM",
        summary="features of small variance within each domain",
        paper="arXiv 2106.06607",
    )
    search = space(weight=PowerOfTen(-1, 5), anneal=Floor(PowerOfTen(0, 4)))
    requires = Requires(min_domains=1, features=True)
    code = IBERMLearner

    weight: Weight = 100.0
    anneal: Updates = 500


@dataclass(frozen=True)
class IBIRM(Method):
    """IB-ERM with IRM's penalty beside it (arXiv 2106.06607, as DomainBed)."""

    info = MethodInfo(
        name="ib-irm",
        title="IB-IRM",
        summary="IB-ERM and IRM together",
        paper="arXiv 2106.06607",
        baselines=("erm", "irm"),
    )
    search = space(
        weight=PowerOfTen(-1, 5),
        anneal=Floor(PowerOfTen(0, 4)),
        irm_weight=PowerOfTen(-1, 5),
        irm_anneal=Floor(PowerOfTen(0, 4)),
    )
    requires = Requires(features=True)
    code = IBIRMLearner

    weight: Weight = 100.0
    anneal: Updates = 500
    irm_weight: Weight = 100.0
    irm_anneal: Updates = 500
