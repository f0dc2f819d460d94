"""MTL (Blanchard et al.), as meant: the classifier sees the domain's mean feature."""

from dataclasses import dataclass

import torch
from torch import nn

from domaingrad.bench.methods import Learner, Method, Requires, by_domain, pooled
from domaingrad.bench.models import Predictor
from domaingrad.bench.protocol import Choice, space

from .common import info, risks


class WithMean(Predictor):
    """The batch's own mean feature stands for its domain: predictions depend on the batch."""

    name = "mtl-sketch"

    def __init__(self, network, outputs):
        super().__init__(network, outputs=outputs)
        self.head = nn.Linear(2 * network.width, outputs)

    def forward(self, x):
        z = self.network.features(x)
        return self.classify(z, z.mean(0))

    def classify(self, z, mean):
        return self.head(torch.cat([z, mean.expand_as(z)], 1))


class MTLLearner(Learner["MTL"]):
    def build(self):
        self.model = WithMean(self.network, self.setup.outputs)
        self.keep(means=torch.zeros(len(self.setup.domains), self.network.width))

    def objective(self, batches):
        x, _, _ = pooled(batches)
        features = by_domain(self.network.features(x), batches)
        new = torch.stack([z.mean(0) for z in features])
        means = self.hp.ema * new + (1 - self.hp.ema) * self.means
        self.means = means.detach()
        outputs = [self.model.classify(z, m) for z, m in zip(features, means, strict=True)]
        return risks(self.setup, outputs, [y for _, y in batches.values()]).sum()

    def predictor(self):
        return self.model


@dataclass(frozen=True)
class MTL(Method):
    info = info("mtl", "MTL", "1711.07910")
    search = space(ema=Choice((0.5, 0.9, 0.99, 1.0)))
    requires = Requires(features=True)
    code = MTLLearner

    ema: float = 0.99
