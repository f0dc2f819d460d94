"""URM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from domaingrad.bench.models import PREDICTORS, Network, Predictor
from domaingrad.bench.protocol import Choice, PowerOfTen, Uniform, space

from .base import Count, Method, MethodInfo, Rate, Requires, Weight
from .learner import Batches, Learner, pooled
from .passes import full

Activation = Literal["tanh", "relu"]
HIDDEN = 100


class Activated(Predictor):
    """A network whose features pass through one more function, also to predict.

    Args:
        network: the network.
        activation: ``"tanh"`` or ``"relu"``.
    """

    name = "urm"

    def __init__(self, network: Network, activation: str) -> None:
        super().__init__(network, activation=activation)
        self.activation = torch.tanh if activation == "tanh" else torch.relu

    def features(self, x: Tensor) -> Tensor:
        """Activated."""
        return self.activation(full(self.network.features(x)))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs, shape [n, outputs]."""
        return self.network.head(self.features(x))


PREDICTORS.add(Activated.name, Activated)


class URMLearner(Learner["URM"]):
    """Features against a discriminator that tells them from noise."""

    def build(self) -> None:
        """The discriminator; 1 stands for noise."""
        hp, width, layers = self.hp, self.network.width, list[nn.Module]()
        for _ in range(hp.depth + 1):
            layers += [nn.Linear(width, HIDDEN), nn.LeakyReLU()]
            width = HIDDEN
        self.model = Activated(self.network, hp.activation)
        self.discriminator = nn.Sequential(*layers, nn.Linear(HIDDEN, 1))
        self.of_network = self.setup.optimizer(self.network.parameters())
        self.of_discriminator = self.setup.optimizer(
            self.discriminator.parameters(), learning_rate=hp.learning_rate
        )

    def update(self, batches: Batches) -> Tensor:
        """A step of the network, then one of the discriminator on the same features."""
        x, y, _ = pooled(batches)
        z = self.model.features(x)
        risk = self.setup.loss(self.network.head(z), y).mean()
        against = self.hp.weight * self._told(z, 1.0)
        self.take(risk + against, self.of_network)
        low = -1.0 if self.hp.activation == "tanh" else 0.0
        drawn = torch.rand(z.shape, generator=self.setup.generator, dtype=z.dtype)
        noise = (low + (1 - low) * drawn).to(z.device)
        told = self._told(noise, 1.0) + self.hp.weight * self._told(z.detach(), 0.0)
        self.setup.amp.between_steps()
        self.take(told, self.of_discriminator)
        self.total(risk=risk, against=against, discriminator=told)
        return risk.detach()

    def predictor(self) -> Predictor:
        """With the activation."""
        return self.model

    def _told(self, z: Tensor, label: float) -> Tensor:
        logits = self.discriminator(z)
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


@dataclass(frozen=True)
class URM(Method):
    """R̄ + a BCE(D(z), noise) for the network; BCE(D(u), noise) + a BCE(D(z), z) for D, u uniform.

    TMLR 2024 (OpenReview PgLbS5yp8n), as in DomainBed: z through tanh or ReLU. It ignores domains.
    DomainBed's learning rate of D is 1e-3 / 10^U(−5.5, −3.5) on digits.
    """

    info = MethodInfo(
        name="urm",
        title="URM",
        summary="features distributed uniformly, by a discriminator from noise",
        paper="TMLR 2024, OpenReview PgLbS5yp8n",
        cost="1 pass, and 3 of the discriminator",
    )
    search = space(
        weight=Uniform(0, 0.2), depth=Choice((1, 2, 3)), learning_rate=PowerOfTen(-6, -4.5)
    )
    requires = Requires(min_domains=1, features=True)
    code = URMLearner

    weight: Weight = 0.1
    depth: Count = 1
    activation: Activation = "tanh"
    learning_rate: Rate = 5e-5
    """Of the discriminator."""
