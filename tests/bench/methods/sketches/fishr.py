"""Fishr (Rame et al.): variances of the classifier's gradients are alike; its closed form."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from domaingrad.bench.methods import Learner, Method, Requires, by_domain, pooled
from domaingrad.bench.protocol import PowerOfTen, Uniform, space

from .common import info


def variance(features, logits, labels):
    """Of single samples' gradients of a linear classifier: (p − 1_y) ⊗ [z, 1], shape [C, d + 1]."""
    error = logits.softmax(1) - F.one_hot(labels, logits.shape[1])
    z = F.pad(features, (0, 1), value=1.0)
    return (error.square().T @ z.square() - (error.T @ z).square() / len(z)) / len(z)


class FishrLearner(Learner["Fishr"]):
    def build(self):
        head = self.network.classifier
        assert isinstance(head, nn.Linear)
        size = (len(self.setup.domains), head.out_features, head.in_features + 1)
        self.keep(average=torch.zeros(size))

    def objective(self, batches):
        x, y, _ = pooled(batches)
        z = self.network.features(x)
        outputs = self.network.head(z)
        parts = zip(*(by_domain(each, batches) for each in (z, outputs, y)), strict=True)
        each = torch.stack([variance(*part) for part in parts])
        moved = self.hp.ema * self.average + (1 - self.hp.ema) * each
        self.average = moved.detach()
        corrected = moved / (1 - self.hp.ema)
        penalty = (corrected - corrected.mean(0)).square().flatten(1).mean(1).mean()
        if self.step == self.hp.anneal > 0:
            self.restart(self.optimizer)
        weight = self.hp.weight if self.step >= self.hp.anneal else 0.0
        return self.setup.loss(outputs, y).mean() + weight * penalty


@dataclass(frozen=True)
class Fishr(Method):
    info = info("fishr", "Fishr", "2109.02934")
    search = space(weight=PowerOfTen(1, 4), ema=Uniform(0.9, 0.99))
    requires = Requires(features=True)
    code = FishrLearner

    weight: float = 1000.0
    ema: float = 0.95
    anneal: int = 1500
