"""SelfReg."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from .base import MethodInfo, Requires, TwoReadings
from .learner import Batches, Learner
from .passes import forward

WIDE, OF_FEATURES, BETA = 2048, 0.3, 0.5
"""Width that is not doubled; weight of features beside outputs; of λ's distribution."""


def within_classes(labels: Tensor, generator: Generator) -> Tensor:
    """A random permutation of samples sorted by class that leaves each in its class."""
    key = torch.rand(len(labels), generator=generator, dtype=torch.float64).to(labels.device)
    return (labels + key).argsort()


def projection(width: int) -> nn.Sequential:
    """The class-specific domain perturbation layer: three linear layers with batch norms."""
    hidden = width if width == WIDE else 2 * width
    sizes = ((width, hidden), (hidden, hidden))
    layers = [
        each
        for before, after in sizes
        for each in (nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU())
    ]
    return nn.Sequential(*layers, nn.Linear(hidden, width), nn.BatchNorm1d(width))


class SelfRegLearner(Learner["SelfReg"]):
    """Pairs samples of the same class, whatever their domain."""

    def build(self) -> None:
        """The layer, trained or not."""
        self.projection = projection(self.network.width)
        self.projection.requires_grad_(not self.hp.as_published)

    def share(self) -> float:
        """λ ~ Beta(½, ½)."""
        seed = int(torch.randint(2**31, (), generator=self.setup.generator))
        return float(np.random.default_rng(seed).beta(BETA, BETA))

    def objective(self, batches: Batches) -> Tensor:
        """Risk, and distances within classes weighted by the risk up to 1."""
        done = forward(self.setup, batches)
        order = done.labels.argsort(stable=True)
        y, o, z = (each[order] for each in (done.labels, done.outputs, done.features))
        q = self.projection(z)
        one, other = (within_classes(y, self.setup.generator) for _ in range(2))
        share, mse = self.share(), F.mse_loss
        pairs = mse(o, o[one]) + OF_FEATURES * mse(z, q[one])
        mixed = [share * v[one] + (1 - share) * v[other] for v in (o, q)]
        mixtures = mse(o, mixed[0]) + OF_FEATURES * mse(z, mixed[1])
        scale = done.risk.detach().clamp(max=1)
        similarity = scale * (share * pairs + (1 - share) * mixtures)
        return self.total(risk=done.risk, similarity=similarity)


@dataclass(frozen=True)
class SelfReg(TwoReadings):
    """R̄ + min(1, R̄) {λ[MSE(o, o_π) + .3 MSE(z, q_π)] + (1−λ)[MSE(o, o′) + .3 MSE(z, q′)]}.

    arXiv 2104.09841, as in DomainBed (without the paper's curriculum and weight averaging): π, π′
    shuffle within classes, o′ = λ o_π + (1−λ) o_π′, q = a projection of z, q′ likewise. As meant:
    the projection is trained. As published: it never is.
    """

    meant = MethodInfo(
        name="selfreg",
        title="SelfReg",
        summary="outputs and features of one class alike, whatever the domain",
        paper="arXiv 2104.09841",
        cost="1 pass, and one of three linear layers",
    )
    published = "SelfReg with a projection that is never trained"
    requires = Requires(min_domains=1, features=True, classes=True)
    code = SelfRegLearner
