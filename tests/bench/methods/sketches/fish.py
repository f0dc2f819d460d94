"""Fish (Shi et al.): steps of a clone over the domains, then a part of the way towards it."""

from copy import deepcopy
from dataclasses import dataclass

from domaingrad.bench.methods import Learner, Method
from domaingrad.bench.protocol import Choice, space

from .common import info, interpolate


class FishLearner(Learner["Fish"]):
    def build(self):
        self.inner = deepcopy(self.network)
        self.inner_optimizer = self.setup.optimizer(self.inner.parameters())

    def update(self, batches):
        self.inner.load_state_dict(self.network.state_dict())
        for x, y in batches.values():
            loss = self.setup.loss(self.inner(x), y).mean()
            self.inner_optimizer.zero_grad()
            self.setup.amp.scale(loss).backward()
            self.setup.amp.step(self.inner_optimizer)
        interpolate(self.network, self.inner, self.hp.epsilon)
        return loss.detach()


@dataclass(frozen=True)
class Fish(Method):
    info = info("fish", "Fish", "2104.09937")
    search = space(epsilon=Choice((0.05, 0.1, 0.5)))
    code = FishLearner

    epsilon: float = 0.5
