"""RDM."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from domaingrad.bench.protocol import Floor, Uniform, space

from .base import Method, MethodInfo, Rate, Updates, Weight
from .distances import kernels
from .learner import Batches, Learner
from .passes import forward

BANDWIDTHS = (0.0001, 0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)


def discrepancy(losses: Tensor, weights: Tensor) -> Tensor:
    """MMD between losses weighted by ``weights`` and all of them: (a − b)ᵀ K (a − b), b = 1/N."""
    apart = weights - 1 / len(losses)
    return apart @ kernels(losses[:, None], BANDWIDTHS) @ apart


class RDMLearner(Learner["RDM"]):
    """Risk first; then losses of the worst domain like those of all."""

    def objective(self, batches: Batches) -> Tensor:
        """Risk, and from the anneal on matching and variance."""
        if self.step == self.hp.anneal:
            rate = self.hp.learning_rate
            self.optimizer = self.setup.optimizer(self.network.parameters(), learning_rate=rate)
        done = forward(self.setup, batches)
        late, losses = self.step >= self.hp.anneal, done.losses
        highest = done.risks.detach().argmax(keepdim=True)
        worst = done.members.shares(losses).index_select(0, highest)[0]
        mean, count = worst @ losses, (worst > 0).sum()
        variance = worst @ (losses - mean).square() * count / (count - 1) + losses.var()
        return self.total(
            risk=done.risk,
            matching=(self.hp.weight if late else 0.0) * discrepancy(losses, worst),
            variance=(self.hp.variance_weight if late else 0.0) * variance,
        )


@dataclass(frozen=True)
class RDM(Method):
    """R̄ + w MMD(losses of the worst domain, all losses) + ν (Var of all + Var of the worst).

    arXiv 2310.18598 §3; both weights 0 before the anneal, where a new Adam has its own learning
    rate, as in DomainBed. There the weights depend on the data set (w 0.5 / U(0.1, 1) for
    DomainNet, 5 / U(1, 10) for PACS and TerraIncognita; ν 0 for TerraIncognita, Office-Home and
    DomainNet), and batches are two to three times those of the other methods.
    """

    info = MethodInfo(
        name="rdm",
        title="RDM",
        summary="single losses distributed in the worst domain as in all",
        paper="arXiv 2310.18598",
    )
    search = space(
        weight=Uniform(0.1, 10),
        anneal=Floor(Uniform(800, 2700)),
        variance_weight=Uniform(0.001, 0.007),
        learning_rate=Uniform(8e-6, 2e-5),
    )
    code = RDMLearner

    weight: Weight = 5.0
    anneal: Updates = 1500
    variance_weight: Weight = 0.004
    learning_rate: Rate = 1.5e-5
