"""DANN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from domaingrad.bench.protocol import Choice, PowerOfTen, PowerOfTwo, space

from .base import Count, MethodInfo, Requires, TwoReadings, Weight, Within
from .learner import Batches, Learner, pooled
from .passes import full, perceptron


class DANNLearner(Learner["DANN"]):
    """A network against a discriminator of the domains, each with an optimizer."""

    def build(self) -> None:
        """The discriminator."""
        hp, betas, made = self.hp, (self.hp.beta1, 0.9), self.setup.optimizer
        self.discriminator = perceptron(
            self.network.width, len(self.setup.domains), hp.width, hp.depth, hp.dropout
        )
        self.of_network = made(self.network.parameters(), betas=betas)
        self.of_discriminator = made(
            self.adversary(), betas=betas, weight_decay=hp.discriminator_weight_decay
        )

    def adversary(self) -> list[torch.nn.Parameter]:
        """What the discriminator's optimizer trains."""
        return list(self.discriminator.parameters())

    def seen(self, z: Tensor, y: Tensor) -> Tensor:
        """What the discriminator sees of features."""
        return z

    def weights(self, y: Tensor) -> Tensor:
        """Of the samples in the discriminator's loss, shape [N]."""
        return torch.full(y.shape, 1 / len(y), device=y.device)

    def confusion(self, z: Tensor, y: Tensor, domain: Tensor) -> Tensor:
        """L_D, with the penalty on its gradient."""
        seen = self.seen(z, y)
        each = F.cross_entropy(full(self.discriminator(seen)), domain, reduction="none")
        loss = (self.weights(y).to(each) * each).sum()
        if self.hp.gradient_penalty:
            (slope,) = torch.autograd.grad(each.sum(), seen, create_graph=True)
            loss = loss + self.hp.gradient_penalty * slope.square().sum(1).mean()
        return loss

    def update(self, batches: Batches) -> Tensor:
        """Steps of the discriminator, and one of the network against it."""
        x, y, domain = pooled(batches)
        z = full(self.network.features(x))
        turn, steps = True, self.hp.steps
        if self.hp.as_published:
            # DomainBed counts from 1, so with one step each the network has the first turn.
            turn = (self.step + 1) % (1 + steps) >= steps
            steps = 0 if turn else 1
        for _ in range(steps):
            told = self.confusion(z.detach().requires_grad_(), y, domain)
            self.take(told, self.of_discriminator)
            if turn:
                self.setup.amp.between_steps()
        if not turn:
            return told.detach()
        risk = self.setup.loss(self.network.head(z), y).mean()
        against = -self.hp.weight * self.confusion(z, y, domain)
        self.take(self.total(risk=risk, against=against), self.of_network)
        return risk.detach()


@dataclass(frozen=True)
class DANN(TwoReadings):
    """R̄ − λ L_D for the network, L_D = CE(D(z), e) + ρ mean ‖∂CE/∂z‖² for the discriminator D.

    arXiv 1505.07818. As meant: each update is ``steps`` steps of D on these features and then one
    of the network against it. As published (DomainBed): an update is a step of one or the other, so
    that the network gets 1/(1 + steps) of them. Both have the run's learning rate, which DomainBed
    draws for either apart.
    """

    meant = MethodInfo(
        name="dann",
        title="DANN",
        summary="features from which a discriminator cannot tell the domain",
        paper="arXiv 1505.07818",
        cost="1 pass, and steps + 1 of the discriminator",
    )
    published = "DANN whose updates are steps of the network or of the discriminator"
    search = space(
        weight=PowerOfTen(-2, 2),
        steps=PowerOfTwo(0, 3),
        gradient_penalty=PowerOfTen(-2, 1),
        beta1=Choice((0.0, 0.5)),
        width=PowerOfTwo(6, 10),
        depth=Choice((3, 4, 5)),
        dropout=Choice((0.0, 0.1, 0.5)),
        discriminator_weight_decay=PowerOfTen(-6, -2),
    )
    requires = Requires(features=True)
    code = DANNLearner

    weight: Weight = 1.0
    steps: Count = 1
    gradient_penalty: Weight = 0.0
    beta1: Annotated[float, Within("it is Adam's, and 1 forgets nothing", 0, 1, (1,))] = 0.5
    width: Count = 256
    depth: Annotated[int, Within("there is a hidden layer at least", 2)] = 3
    dropout: Annotated[float, Within("something must be left", 0, 1, (1,))] = 0.0
    discriminator_weight_decay: Weight = 0.0
