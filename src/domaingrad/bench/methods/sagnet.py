"""SagNet."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from domaingrad.bench.protocol import PowerOfTen, space

from .base import Method, MethodInfo, Requires, Weight
from .learner import Batches, Learner, pooled
from .passes import full

FLOOR = 1e-5


def statistics(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and unbiased variance over a sample's features, and the features without them."""
    mean, variance = z.mean(1, keepdim=True), z.var(1, keepdim=True)
    return mean, variance, (z - mean) / (variance + FLOOR).sqrt()


class SagNetLearner(Learner["SagNet"]):
    """Features, a head for content and one for style, each with an optimizer."""

    def build(self) -> None:
        """The style head begins like the other."""
        made = self.setup.optimizer
        self.style = deepcopy(self.network.classifier)
        self.of_features = made(self.network.body.parameters())
        self.of_content = made(self.network.classifier.parameters())
        self.of_style = made(self.style.parameters())

    def update(self, batches: Batches) -> Tensor:
        """Content, style, and features that tell no style: a pass and a step each."""
        x, y, _ = pooled(batches)
        loss, between = self.setup.loss, self.setup.amp.between_steps
        risk = loss(self.network.head(self.without_style(x)), y).mean()
        self.take(risk, self.of_features, self.of_content)
        between()
        style = loss(self.style(self.without_content(x)), y).mean()
        self.take(style, self.of_style)
        between()
        chances = self.style(self.without_content(x)).log_softmax(1)
        confusion = -self.hp.weight * chances.mean()
        self.take(confusion, self.of_features)
        self.total(risk=risk, style=style, confusion=confusion)
        return risk.detach()

    def without_style(self, x: Tensor) -> Tensor:
        """Features whose mean and variance are mixed with another sample's."""
        mean, variance, rest = statistics(full(self.network.features(x)))
        order, generator = self._order(x), self.setup.generator
        share = torch.rand(len(x), 1, generator=generator, dtype=mean.dtype).to(x.device)
        mean = share * mean + (1 - share) * mean[order]
        variance = share * variance + (1 - share) * variance[order]
        return rest * (variance + FLOOR).sqrt() + mean

    def without_content(self, x: Tensor) -> Tensor:
        """Another sample's features, which get no gradient, with this one's mean and variance."""
        mean, variance, rest = statistics(full(self.network.features(x)))
        return rest[self._order(x)].detach() * (variance + FLOOR).sqrt() + mean

    def _order(self, x: Tensor) -> Tensor:
        return torch.randperm(len(x), generator=self.setup.generator).to(x.device)


@dataclass(frozen=True)
class SagNet(Method):
    """Three steps: R of style-randomised features; a style head; w · its cross-entropy to uniform.

    arXiv 1910.11645 §3, on pooled features as in DomainBed; the paper's are maps of features.
    """

    info = MethodInfo(
        name="sagnet",
        title="SagNet",
        summary="features whose mean and variance (style) tell no class",
        paper="arXiv 1910.11645",
        cost="3 passes",
    )
    search = space(weight=PowerOfTen(-2, 1))
    requires = Requires(min_domains=1, features=True, classes=True)
    code = SagNetLearner

    weight: Weight = 0.1
