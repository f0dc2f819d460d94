"""Fish."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from domaingrad.bench.protocol import Choice, space

from .base import MethodInfo, Requires, TwoReadings, Within
from .learner import Batches, Learner
from .passes import interpolate


class FishLearner(Learner["Fish"]):
    """A clone whose optimizer goes on from update to update."""

    def build(self) -> None:
        """The clone."""
        self.inner = deepcopy(self.network)
        self.of_inner = self.setup.optimizer(self.inner.parameters())

    def update(self, batches: Batches) -> Tensor:
        """One step of the clone a domain, then a part of its way."""
        self.inner.load_state_dict(self.network.state_dict())
        names, risks = list(batches), []
        if not self.hp.as_published:
            order = torch.randperm(len(names), generator=self.setup.generator)
            names = [names[at] for at in order]
        for place, name in enumerate(names):
            if place:
                self.setup.amp.between_steps()
            x, y = batches[name]
            risk = self.setup.loss(self.inner(x), y).mean()
            self.take(risk, self.of_inner)
            risks.append(risk.detach())
        interpolate(self.network, self.inner, self.hp.epsilon)
        return self.total(risk=torch.stack(risks).mean())


@dataclass(frozen=True)
class Fish(TwoReadings):
    """θ̃ takes a step on each R_e in turn, from θ; then θ ← θ + ε (θ̃ − θ), buffers too.

    arXiv 2104.09937, algorithm 1, with DomainBed's Adam, whose state is kept. As meant: domains in
    random order. As published (DomainBed): in the given order, so that the last one is favoured.
    """

    meant = MethodInfo(
        name="fish",
        title="Fish",
        summary="small steps, a domain each, and a part of their way: aligns the gradients",
        paper="arXiv 2104.09937",
        cost="1 pass in K parts, K steps of the optimizer",
    )
    published = "Fish with the domains always in the same order"
    search = space(epsilon=Choice((0.05, 0.1, 0.5)))
    requires = Requires(min_domains=1)
    code = FishLearner

    epsilon: Annotated[float, Within("it is a part of the way", 0, 1, (0,))] = 0.5
