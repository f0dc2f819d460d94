"""POGM."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn

from domaingrad.bench.protocol import Choice, space

from .base import Count, Method, MethodInfo, Within
from .learner import Batches, Learner

FLOOR = 1e-4


def simplex_weights(gramian: Tensor, kappa: float) -> tuple[np.ndarray, float]:
    """W on the simplex that minimises wᵀG1/K + c √(wᵀGw + 1e-4), a convex problem; and its c/‖·‖.

    c = κ √(1ᵀG1/K² + 1e-4); the second is c/(√(wᵀGw + 1e-4) + 1e-4). Ours: solved to 1e-12 by
    sequential quadratic programming, for the authors' twenty steps of gradient descent.

    Args:
        gramian: [K, K], of the domains' displacements by their mean size.
        kappa: κ.
    """
    from scipy.optimize import minimize  # noqa: PLC0415 - takes seconds to import

    g = gramian.double().cpu().numpy()
    count = len(g)
    toward = g.mean(1)
    factor = kappa * math.sqrt(g.mean() + FLOOR)

    def value(w: np.ndarray) -> tuple[float, np.ndarray]:
        norm = math.sqrt(max(w @ g @ w, 0.0) + FLOOR)
        return w @ toward + factor * norm, toward + factor * (g @ w) / norm

    found = minimize(
        value,
        np.full(count, 1 / count),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * count,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-12, "maxiter": 500},
    )
    weights = np.clip(found.x, 0, None) / np.clip(found.x, 0, None).sum()
    norm = math.sqrt(max(weights @ g @ weights, 0.0) + FLOOR)
    return weights, factor / (norm + FLOOR)


class POGMLearner(Learner["POGM"]):
    """A clone a domain; their optimizers go on from period to period."""

    def build(self) -> None:
        """The clones."""
        self.clones = nn.ModuleList(deepcopy(self.network) for _ in self.setup.domains)
        self.of_clones = [self.setup.optimizer(clone.parameters()) for clone in self.clones]

    def update(self, batches: Batches) -> Tensor:
        """A step of each clone on its own domain; at the end of a period, one of the network."""
        if self.step % self.hp.period == 0:
            for clone in self.clones:
                clone.load_state_dict(self.network.state_dict())
        risks = []
        for (x, y), clone, optimizer in zip(
            batches.values(), self.clones, self.of_clones, strict=True
        ):
            risk = self.setup.loss(clone(x), y).mean()
            self.take(risk, optimizer)
            risks.append(risk.detach())
        if (self.step + 1) % self.hp.period == 0:
            self._follow()
        return self.total(risk=torch.stack(risks).mean())

    @torch.no_grad()
    def _follow(self) -> None:
        parameters = list(self.network.parameters())
        moved = [
            torch.cat(
                [(c - p).flatten() for c, p in zip(clone.parameters(), parameters, strict=True)]
            )
            for clone in self.clones
        ]
        h, count, hp = torch.stack(moved), len(moved), self.hp
        size = (h.double().square().sum(1) + FLOOR).sqrt().mean()
        weights, scale = simplex_weights((h @ h.T).double() / size.square(), hp.kappa)
        of_domain = torch.from_numpy(1 / count + weights * scale).to(h) / (1 + hp.kappa**2)
        step = hp.epsilon * (of_domain @ h)
        sizes = [p.numel() for p in parameters]
        parts: tuple[Tensor, ...] = step.split(sizes)  # type: ignore[no-untyped-call]
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.add_(part.view_as(parameter))
        buffers = (clone.buffers() for clone in self.clones)
        for own, *its in zip(self.network.buffers(), *buffers, strict=True):
            own.copy_(torch.stack(its).mean(0) if own.is_floating_point() else its[0])


@dataclass(frozen=True)
class POGM(Method):
    """θ += ε Σ_e (1/K + w_e c/‖Σ w h‖) h_e/(1+κ²), h_e the way of domain e's clone in a period.

    arXiv 2507.14227, as the authors' code has it; w by :func:`simplex_weights`. Ours: BatchNorm's
    statistics, which are frozen there, become the mean of the clones'.
    """

    info = MethodInfo(
        name="pogm",
        title="POGM",
        summary="the way that helps the domain which it helps least, from a clone a domain",
        paper="arXiv 2507.14227",
        cost="1 pass in K parts, K optimizers, K copies of the network",
    )
    search = space(
        epsilon=Choice((0.05, 0.1, 0.5)), kappa=Choice((0.05, 0.1, 0.5)), period=Choice((1, 5, 10))
    )
    code = POGMLearner

    epsilon: Annotated[float, Within("it is a part of the way", 0, 1, (0,))] = 0.5
    kappa: Annotated[
        float, Within("it is a radius, in units of the mean way; 0 is the mean", 0, 1)
    ] = 0.5
    period: Count = 1
