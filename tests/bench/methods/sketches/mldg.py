"""MLDG (Li et al.), first order, as DomainBed's main branch."""

from copy import deepcopy
from dataclasses import dataclass
from itertools import cycle

import torch

from domaingrad.bench.methods import Learner, Method, Requires
from domaingrad.bench.protocol import PowerOfTen, space

from .common import info


class MLDGLearner(Learner["MLDG"]):
    def backward(self, batches):
        loss, each = self.setup.loss, list(batches.values())
        count = len(each)
        order = torch.randperm(count, generator=self.setup.generator).tolist()
        tests = min(self.hp.tests, count - 1)
        total = [torch.zeros_like(p) for p in self.network.parameters()]
        losses = 0.0
        for train, test in zip(order[: count - tests], cycle(order[count - tests :])):
            inner = deepcopy(self.network)
            optimizer = self.setup.optimizer(inner.parameters())
            for (x, y), weight in ((each[train], 1.0), (each[test], self.hp.beta)):
                risk = loss(inner(x), y).mean()
                optimizer.zero_grad()
                risk.backward()
                for found, parameter in zip(total, inner.parameters(), strict=True):
                    found.add_(parameter.grad, alpha=weight / count)
                optimizer.step()  # a fresh Adam's first; the second one changes nothing here
                losses += weight * risk.detach() / count
        for parameter, gradient in zip(self.network.parameters(), total, strict=True):
            parameter.grad = self.setup.amp.scale(gradient)
        return losses


@dataclass(frozen=True)
class MLDG(Method):
    info = info("mldg", "MLDG", "1710.03463")
    search = space(beta=PowerOfTen(-1, 1))
    requires = Requires(min_domains=2)
    code = MLDGLearner

    beta: float = 1.0
    tests: int = 2
