"""MTL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from domaingrad.bench.models import PREDICTORS, Network, Predictor
from domaingrad.bench.protocol import Choice, space

from .base import MethodInfo, Requires, TwoReadings, Within
from .learner import Batches, Learner, by_domain, pooled
from .passes import full


class WithMean(Predictor):
    """A classifier of features beside a vector that stands for their domain.

    To predict, that is the mean feature of the batch, so predictions depend on what else is in it;
    or noise, as DomainBed has it by mistake.

    Args:
        network: whose features; its own classifier is left out.
        outputs: their number.
        vector: ``"mean"`` or ``"noise"``.
    """

    name = "mtl"

    def __init__(self, network: Network, outputs: int, vector: str = "mean") -> None:
        super().__init__(network, outputs=outputs, vector=vector)
        self.head = nn.Linear(2 * network.width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs, shape [n, outputs]."""
        z = full(self.network.features(x))
        return self.classify(z, z.mean(0))

    def classify(self, z: Tensor, mean: Tensor) -> Tensor:
        """Outputs of features [n, width] of a domain with a mean, [width]."""
        if self.arguments["vector"] == "noise":
            mean = torch.randn_like(mean)
        outputs: Tensor = self.head(torch.cat([z, mean.expand_as(z)], 1))
        return outputs


PREDICTORS.add(WithMean.name, WithMean)


class MTLLearner(Learner["MTL"]):
    """Keeps the mean feature of each domain."""

    means: Tensor

    def build(self) -> None:
        """The other classifier, and means of zero."""
        vector = "noise" if self.hp.as_published else "mean"
        self.model = WithMean(self.network, self.setup.outputs, vector)
        self.keep(means=torch.zeros(len(self.setup.domains), self.network.width))

    def objective(self, batches: Batches) -> Tensor:
        """The sum of the risks, not their mean."""
        x, _, _ = pooled(batches)
        features = by_domain(full(self.network.features(x)), batches)
        means = torch.stack([z.mean(0) for z in features])
        means = self.hp.ema * means + (1 - self.hp.ema) * self.means
        self.means = means.detach()
        outputs = [self.model.classify(z, m) for z, m in zip(features, means, strict=True)]
        labels = (y for _, y in batches.values())
        risks = [self.setup.loss(o, y).mean() for o, y in zip(outputs, labels, strict=True)]
        return self.total(risk=torch.stack(risks).sum())

    def predictor(self) -> Predictor:
        """With the batch's own mean."""
        return self.model


@dataclass(frozen=True)
class MTL(TwoReadings):
    """Σ_e R_e of a classifier of [z, m_e], m_e ← ε mean z + (1−ε) m_e the mean feature of a domain.

    arXiv 1711.07910. To predict for a domain never seen, m is the batch's own mean, so evaluation
    is transductive. As published (DomainBed): m is noise, in training and to predict.
    """

    meant = MethodInfo(
        name="mtl",
        title="MTL",
        summary="a classifier that sees the domain's mean feature; predictions depend on the batch",
        paper="arXiv 1711.07910",
    )
    published = "MTL with noise in place of the domain's mean feature"
    search = space(ema=Choice((0.5, 0.9, 0.99, 1.0)))
    requires = Requires(min_domains=1, features=True)
    code = MTLLearner

    ema: Annotated[
        float, Within("it is the new batch's share, and 0 learns no mean", 0, 1, (0,))
    ] = 0.99
