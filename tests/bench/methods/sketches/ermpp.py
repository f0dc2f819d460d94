"""ERM++ (Teterwak et al.), in one run: head first, then all; a uniform average from a step on."""

from copy import deepcopy
from dataclasses import dataclass

from domaingrad.bench.methods import Method, Requires
from domaingrad.bench.methods.erm import ERMLearner
from domaingrad.bench.protocol import PowerOfTen, space

from .common import info, interpolate


class ERMPlusPlusLearner(ERMLearner):
    def build(self):
        self.average = deepcopy(self.network).requires_grad_(False)
        self.of_head = self.setup.optimizer(
            self.network.classifier.parameters(), learning_rate=self.hp.linear_lr
        )
        self.of_all = self.setup.optimizer(self.network.parameters())

    def update(self, batches):
        loss = self.backward(batches)
        head_alone = self.step < self.hp.linear_steps
        self.setup.amp.step(self.of_head if head_alone else self.of_all)
        self.of_all.zero_grad()
        before = max(0, self.step - self.hp.average_from)
        interpolate(self.average, self.network, 1 / (1 + before))
        return loss

    def predictor(self):
        return self.average


@dataclass(frozen=True)
class ERMPlusPlus(Method):
    info = info("erm++", "ERM++", "2304.01973")
    search = space(linear_lr=PowerOfTen(-5, -3.5))
    requires = Requires(min_domains=1, features=True)
    code = ERMPlusPlusLearner

    linear_lr: float = 5e-5
    linear_steps: int = 500
    average_from: int = 600
