"""MLDG."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from itertools import cycle

import torch
from torch import Tensor

from domaingrad.bench.protocol import Choice, PowerOfTen, space

from .base import Count, MethodInfo, Requires, TwoReadings, Weight
from .learner import Batches, Learner
from .passes import domain_gradients, leave


class MLDGLearner(Learner["MLDG"]):
    """Draws which domains are for training and which for testing."""

    def backward(self, batches: Batches) -> Tensor:
        """The sum over pairs of the gradient here and of that after a step."""
        names, count, hp = list(batches), len(batches), self.hp
        order = torch.randperm(count, generator=self.setup.generator).tolist()
        tests = min(hp.tests, count - 1)
        total: list[Tensor] = []
        risks = []
        for train, test in zip(order[: count - tests], cycle(order[count - tests :]), strict=False):
            here, there = ({names[at]: batches[names[at]]} for at in (train, test))
            ((risk, gradient),) = domain_gradients(self.setup, self.network, here)
            inner = deepcopy(self.network)
            leave(inner, self.setup.amp.unscaled(gradient))
            self.setup.optimizer(inner.parameters()).step()
            ((later_risk, later),) = domain_gradients(self.setup, inner, there)
            risks += [risk / count, hp.beta * later_risk / count]
            both = torch._foreach_add(gradient, later, alpha=hp.beta)
            torch._foreach_div_(both, count)
            total = list(torch._foreach_add(total, both) if total else both)
        leave(self.network, total)
        return self.total(risk=torch.stack(risks).sum())


@dataclass(frozen=True)
class MLDG(TwoReadings):
    """(1/K) Σ_pairs [∇R_i(θ) + β ∇R_j(θ′)], θ′ one step of a fresh optimizer from θ on R_i.

    arXiv 1710.03463, algorithm 1, to first order and divided by K, as in DomainBed. As meant: with
    K ≤ ``tests`` domains, K − 1 are for testing. As published such a K makes no pair and trains
    nothing, so it is refused. DomainBed's published numbers are of a ring of pairs (7df6f06).
    """

    meant = MethodInfo(
        name="mldg",
        title="MLDG",
        summary="steps on some domains that lower the risk of others, too",
        paper="arXiv 1710.03463",
        cost="2 passes over a domain for each of K − tests pairs, and a copy of the network",
    )
    published = "MLDG that needs more domains than tests"
    search = space(beta=PowerOfTen(-1, 1), tests=Choice((1, 2)))
    code = MLDGLearner

    @property
    def requires(self) -> Requires:
        """As published, more domains than ``tests``: with fewer there is no pair to train on."""
        return Requires(min_domains=self.tests + 1 if self.as_published else 2)

    beta: Weight = 1.0
    tests: Count = 2
