"""SagNet (Nam et al.), on pooled features as in DomainBed."""

from copy import deepcopy
from dataclasses import dataclass

import torch

from domaingrad.bench.methods import Learner, Method, Requires, pooled
from domaingrad.bench.protocol import PowerOfTen, space

from .common import info


def statistics(z):
    """Mean and unbiased variance over a sample's features, and what is left of it."""
    mean, variance = z.mean(1, keepdim=True), z.var(1, keepdim=True)
    return mean, variance, (z - mean) / (variance + 1e-5).sqrt()


class SagNetLearner(Learner["SagNet"]):
    def build(self):
        made = self.setup.optimizer
        self.style = deepcopy(self.network.classifier)
        self.of_features = made(self.network.body.parameters())
        self.of_content = made(self.network.classifier.parameters())
        self.of_style = made(self.style.parameters())

    def update(self, batches):
        x, y, _ = pooled(batches)
        loss = self.setup.loss(self.network.head(self._style_randomized(x)), y).mean()
        self._step(loss, self.of_features, self.of_content)
        told = self.setup.loss(self.style(self._content_randomized(x)), y).mean()
        self._step(told, self.of_style)
        chances = self.style(self._content_randomized(x)).log_softmax(1)
        self._step(-self.hp.weight * chances.mean(), self.of_features)
        return loss.detach()

    def _step(self, loss, *optimizers):
        for each in (self.of_features, self.of_content, self.of_style):
            each.zero_grad()
        self.setup.amp.scale(loss).backward()
        for each in optimizers:
            self.setup.amp.step(each)

    def _style_randomized(self, x):
        mean, variance, rest = statistics(self.network.features(x))
        order = torch.randperm(len(x), generator=self.setup.generator)
        share = torch.rand(len(x), 1, generator=self.setup.generator).to(x.device)
        mean = share * mean + (1 - share) * mean[order]
        variance = share * variance + (1 - share) * variance[order]
        return rest * (variance + 1e-5).sqrt() + mean

    def _content_randomized(self, x):
        mean, variance, rest = statistics(self.network.features(x))
        order = torch.randperm(len(x), generator=self.setup.generator)
        return rest[order].detach() * (variance + 1e-5).sqrt() + mean


@dataclass(frozen=True)
class SagNet(Method):
    info = info("sagnet", "SagNet", "1910.11645")
    search = space(weight=PowerOfTen(-2, 1))
    requires = Requires(min_domains=1, features=True)
    code = SagNetLearner

    weight: float = 0.1
