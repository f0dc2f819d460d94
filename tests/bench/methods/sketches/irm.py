"""IRM (Arjovsky et al.), with DomainBed's estimator of the penalty."""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from domaingrad.bench.methods import Learner, Method, by_domain, pooled
from domaingrad.bench.protocol import Floor, PowerOfTen, space

from .common import info, risks


def penalty(logits, labels):
    """D(even half)·D(odd half), D = ∂/∂s CE(s·logits) at s = 1: unbiased, so it may be negative."""
    error = logits.softmax(1) - F.one_hot(labels, logits.shape[1])
    each = (error * logits).sum(1)
    return each[::2].mean() * each[1::2].mean()


class IRMLearner(Learner["IRM"]):
    def objective(self, batches):
        x, _, _ = pooled(batches)
        labels = [y for _, y in batches.values()]
        outputs = by_domain(self.network(x), batches)
        invariance = torch.stack([penalty(o, y) for o, y in zip(outputs, labels, strict=True)])
        if self.step == self.hp.anneal:
            self.restart(self.optimizer)
        weight = self.hp.weight if self.step >= self.hp.anneal else 1.0
        return risks(self.setup, outputs, labels).mean() + weight * invariance.mean()


@dataclass(frozen=True)
class IRM(Method):
    info = info("irm", "IRM", "1907.02893")
    search = space(weight=PowerOfTen(-1, 5), anneal=Floor(PowerOfTen(0, 4)))
    code = IRMLearner

    weight: float = 100.0
    anneal: int = 500
