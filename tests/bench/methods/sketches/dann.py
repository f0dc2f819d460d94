"""DANN (Ganin et al.), alternating as in DomainBed; without the gradient penalty."""

from dataclasses import dataclass

from torch.nn import functional as F

from domaingrad.bench.methods import Learner, Method, Requires, pooled
from domaingrad.bench.protocol import PowerOfTen, space

from .common import info, perceptron


class DANNLearner(Learner["DANN"]):
    def build(self):
        betas, made = (self.hp.beta1, 0.9), self.setup.optimizer
        self.discriminator = perceptron(self.network.width, len(self.setup.domains), 256, 3)
        self.of_network = made(self.network.parameters(), betas=betas)
        self.of_discriminator = made(self.discriminator.parameters(), betas=betas)

    def update(self, batches):
        x, y, domain = pooled(batches)
        z = self.network.features(x)
        told = F.cross_entropy(self.discriminator(z).float(), domain)
        # DomainBed counts from 1: with s = 1 the first step is the network's.
        of_discriminator = (self.step + 1) % (1 + self.hp.d_steps) < self.hp.d_steps
        if of_discriminator:
            loss, optimizer = told, self.of_discriminator
        else:
            risk = self.setup.loss(self.network.head(z), y).mean()
            loss, optimizer = risk - self.hp.weight * told, self.of_network
        for each in (self.of_network, self.of_discriminator):
            each.zero_grad()
        self.setup.amp.scale(loss).backward()
        self.setup.amp.step(optimizer)
        return loss.detach()


@dataclass(frozen=True)
class DANN(Method):
    info = info("dann", "DANN", "1505.07818")
    search = space(weight=PowerOfTen(-2, 2))
    requires = Requires(features=True)
    code = DANNLearner

    weight: float = 1.0
    d_steps: int = 1
    beta1: float = 0.5
