"""GroupDRO (Sagawa et al.)."""

from dataclasses import dataclass

import torch

from domaingrad.bench.methods import Learner, Method
from domaingrad.bench.protocol import PowerOfTen, space

from .common import info, risks


class GroupDROLearner(Learner["GroupDRO"]):
    def build(self):
        self.keep(q=torch.ones(len(self.setup.domains)))

    def objective(self, batches):
        outputs = [self.network(x) for x, _ in batches.values()]
        each = risks(self.setup, outputs, [y for _, y in batches.values()])
        q = self.q * (self.hp.eta * each.detach()).exp()
        self.q = q / q.sum()
        return self.q @ each


@dataclass(frozen=True)
class GroupDRO(Method):
    info = info("groupdro", "GroupDRO", "1911.08731")
    search = space(eta=PowerOfTen(-3, -1))
    code = GroupDROLearner

    eta: float = 1e-2
