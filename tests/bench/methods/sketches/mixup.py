"""Mixup between domains (Xu et al.; Yan et al.), as DomainBed pairs them."""

from dataclasses import dataclass

import numpy as np
import torch

from domaingrad.bench.methods import Learner, Method
from domaingrad.bench.protocol import PowerOfTen, space

from .common import info


class MixupLearner(Learner["Mixup"]):
    def objective(self, batches):
        generator, loss = self.setup.generator, self.setup.loss
        order = torch.randperm(len(batches), generator=generator).tolist()
        seed = int(torch.randint(2**31, (), generator=generator))
        shares = np.random.default_rng(seed).beta(self.hp.alpha, self.hp.alpha, len(order))
        each, total = list(batches.values()), 0.0
        for one, other, share in zip(order, [*order[1:], order[0]], shares, strict=True):
            n = min(len(each[one][1]), len(each[other][1]))
            (x, y), (u, v) = ((a[:n], b[:n]) for a, b in (each[one], each[other]))
            outputs = self.network(share * x + (1 - share) * u)
            total = total + share * loss(outputs, y).mean() + (1 - share) * loss(outputs, v).mean()
        return total / len(order)


@dataclass(frozen=True)
class Mixup(Method):
    info = info("mixup", "Mixup", "2001.00677")
    search = space(alpha=PowerOfTen(-1, 1))
    code = MixupLearner

    alpha: float = 0.2
