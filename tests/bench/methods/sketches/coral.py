"""CORAL (Sun & Saenko), as a penalty between all pairs of domains, as in DomainBed."""

from dataclasses import dataclass
from itertools import combinations

import torch

from domaingrad.bench.methods import Learner, Method, Requires
from domaingrad.bench.protocol import PowerOfTen, space

from .common import info, risks


def distance(one, other):
    """Mean squared differences of the means and of the covariances of two domains' features."""
    means = (one.mean(0) - other.mean(0)).square().mean()
    return means + (one.T.cov() - other.T.cov()).square().mean()


class CORALLearner(Learner["CORAL"]):
    def objective(self, batches):
        features = [self.network.features(x) for x, _ in batches.values()]
        outputs = [self.network.head(z) for z in features]
        each = risks(self.setup, outputs, [y for _, y in batches.values()])
        pairs = [distance(a, b) for a, b in combinations(features, 2)]
        return each.mean() + self.hp.gamma * torch.stack(pairs).mean()


@dataclass(frozen=True)
class CORAL(Method):
    info = info("coral", "CORAL", "1607.01719")
    search = space(gamma=PowerOfTen(-1, 1))
    requires = Requires(features=True)
    code = CORALLearner

    gamma: float = 1.0
