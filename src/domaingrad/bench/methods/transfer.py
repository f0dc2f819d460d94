"""Transfer."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from domaingrad.bench.protocol import Choice, PowerOfTen, Uniform, space

from .base import Count, Method, MethodInfo, Rate, Requires, Weight
from .learner import Batches, Learner, by_domain
from .passes import forward, full


class TransferLearner(Learner["Transfer"]):
    """A network, and the worst classifier near its own."""

    def build(self) -> None:
        """The worst one begins as the own; no optimizer has it."""
        self.adversary = deepcopy(self.network.classifier).requires_grad_(False)

    def gap(self, z: Tensor, batches: Batches, weights: Mapping[str, Tensor]) -> Tensor:
        """τ · (the highest risk − the lowest), of the adversary with these weights."""
        outputs = by_domain(functional_call(self.adversary, dict(weights), z), batches)
        labels = (y for _, y in batches.values())
        risks = [self.setup.loss(o, y).mean() for o, y in zip(outputs, labels, strict=True)]
        each = torch.stack(risks)
        return self.hp.weight * (each.max() - each.min())

    def update(self, batches: Batches) -> Tensor:
        """A step on the risk, one of the features on the gap, a search for worse classifiers."""
        done = forward(self.setup, batches)
        self.take(done.risk, self.optimizer)
        self.setup.amp.between_steps()
        gap = self.gap(self._features(batches), batches, dict(self.adversary.named_parameters()))
        self.take(gap, self.optimizer)  # the classifier has no gradient here, and stays
        with torch.no_grad():
            z = self._features(batches)
        self._ascend(z, batches)
        self.total(risk=done.risk, gap=gap)
        return done.risk.detach()

    def _features(self, batches: Batches) -> Tensor:
        return full(self.network.features(torch.cat([x for x, _ in batches.values()])))

    def _ascend(self, z: Tensor, batches: Batches) -> None:
        """``steps`` steps up from the own classifier, each back into the ball around it."""
        own = {n: p.detach() for n, p in self.network.classifier.named_parameters()}
        worst = dict(own)
        for _ in range(self.hp.steps):
            leaves = {name: t.detach().requires_grad_() for name, t in worst.items()}
            slopes = torch.autograd.grad(self.gap(z, batches, leaves), list(leaves.values()))
            away = [
                leaf.detach() + self.hp.learning_rate * slope - own[name]
                for (name, leaf), slope in zip(leaves.items(), slopes, strict=True)
            ]
            far = torch.stack(torch._foreach_norm(away)).norm()
            inside = (self.hp.radius / far).clamp(max=1)
            worst = {name: own[name] + inside * a for name, a in zip(worst, away, strict=True)}
        self.adversary.load_state_dict({**self.network.classifier.state_dict(), **worst})


@dataclass(frozen=True)
class Transfer(Method):
    """R̄, then τ (max_e R_e(h′∘f) − min_e R_e(h′∘f)) for f, h′ the worst classifier near h.

    arXiv 2106.03632, algorithm 1, as in DomainBed: h′ from s steps of gradient ascent with
    projection onto ‖h′ − h‖ ≤ δ, at the end of an update for the next one. Left out: DomainBed's
    ``gda``, which every random draw there has, and with which the network is never trained.
    """

    info = MethodInfo(
        name="transfer",
        title="Transfer",
        summary="features on which no classifier near the best one tells the domains apart by risk",
        paper="arXiv 2106.03632",
        cost="2 passes, a forward pass, and some of the classifier",
    )
    search = space(
        weight=PowerOfTen(-2, 1),
        radius=Uniform(0.1, 3),
        steps=Choice((1, 2, 5)),
        learning_rate=PowerOfTen(-4.5, -2.5),
    )
    requires = Requires(features=True)
    code = TransferLearner

    weight: Weight = 1.0
    radius: Rate = 2.0
    """δ, over all parameters of the classifier."""
    steps: Count = 10
    learning_rate: Rate = 1e-3
    """Of the ascent."""
