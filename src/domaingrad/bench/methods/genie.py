"""GENIE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Generator, Tensor
from torch.optim import Optimizer

from .base import Method, MethodInfo, Rate, Requires, Within
from .passes import RiskLearner, on_device

FLOOR, MOST = 1e-8, 10.0
"""Added to squares; the most that 1/variance counts for."""


class Genie(Optimizer):
    """θ ← θ − η mask/(1−p) · [m̂ q t + (1 − t) s ε], one tensor at a time.

    m̂ and v̂ are averages of g and g² over steps, corrected as Adam's; ρ is the share of the variance
    σ² = (v̂ − m̂²)/(1 − ρ) that is left in m̂; q = m̂²/(m̂² + ρσ²), t = tanh(min(1/σ², 10)),
    ε ~ N(0, 1), s the mean of |m̂| q weighted by t; the mask keeps a component with probability
    1 − p.

    Args:
        groups: groups of parameters, with ``lr`` and ``weight_decay``.
        average: of the old ones in m and v.
        dropped: p.
        generator: of noise and mask.
    """

    def __init__(
        self, groups: list[dict[str, Any]], average: float, dropped: float, generator: Generator
    ) -> None:
        super().__init__(groups, {"average": average, "dropped": dropped})
        self._generator = generator

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Of every parameter with a gradient."""
        device = self.param_groups[0]["params"][0].device
        generator = on_device(self._generator, device)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group, generator)

    def _move(self, parameter: Tensor, group: dict[str, Any], generator: Generator) -> None:
        beta, dropped, state = group["average"], group["dropped"], self.state[parameter]
        if not state:
            zero = torch.zeros_like(parameter)
            state |= {"mean": zero, "square": zero.clone(), "steps": torch.zeros(())}
        assert parameter.grad is not None
        gradient = parameter.grad.add(parameter, alpha=group["weight_decay"])
        state["steps"] += 1
        mean = state["mean"].lerp_(gradient, 1 - beta)
        square = state["square"].lerp_(gradient.square(), 1 - beta)
        # The sum of the weights 1 − β, (1 − β)β, … so far; and of their squares, by its square.
        steps = int(state["steps"])
        weight = 1 - beta**steps
        rho = (1 - beta) * (2 - weight) / (1 + beta) / weight
        m = mean / weight
        # Ours: one gradient tells no variance, where the authors' code divides 0 by 0.
        known = (square / weight - m.square()) / (1 - rho) if steps > 1 else torch.zeros_like(m)
        variance = _floored(known)
        trust = (1 / variance).clamp(max=MOST).tanh()
        ratio = 1 / (1 + _floored(rho * variance) / (m.square() + FLOOR))
        scale = (trust * m.abs() * ratio).sum() / trust.sum()
        noise, chance = (
            draw(m.shape, generator=generator, dtype=m.dtype, device=m.device)
            for draw in (torch.randn, torch.rand)
        )
        update = m * ratio * trust + (1 - trust) * noise * scale
        parameter.sub_(group["lr"] / (1 - dropped) * update * (chance > dropped))


def _floored(values: Tensor) -> Tensor:
    return torch.where(values > 0, values, FLOOR)


class GENIELearner(RiskLearner["GENIE"]):
    """ERM with another optimizer."""

    def ready(self) -> None:
        """The optimizer, with the recipe's weight decay and schedule."""
        hp = self.hp
        made = self.setup.optimizer(self.network.parameters(), learning_rate=hp.learning_rate)
        groups = [dict(group) for group in made.param_groups]
        self.optimizer = Genie(groups, hp.average, hp.dropped, self.setup.generator)


@dataclass(frozen=True)
class GENIE(Method):
    """ERM by an optimizer that moves parameters by how sure their gradients are, over steps.

    Cho et al., ICML 2025 (arXiv 2606.16301), as the authors' code has it; see :class:`Genie`. At
    usual sizes of gradients t = 1, so that no noise is left, and q is the signal-to-noise ratio of
    m̂ as a share: high ones move more, the opposite of GSNR dropout.
    """

    info = MethodInfo(
        name="genie",
        title="GENIE",
        summary="an optimizer that moves parameters by the signal in their gradients over steps",
        paper="arXiv 2606.16301 (ICML 2025)",
        cost="1 pass, and a step twice Adam's",
    )
    requires = Requires(min_domains=1, sharding="sample by sample")
    code = GENIELearner

    learning_rate: Rate = 0.015
    """The authors' convergence rate, which the run's learning rate does not change."""
    average: Annotated[float, Within("it is the old average's share", 0, 1, (1,))] = 0.95
    dropped: Annotated[float, Within("something must be left to move", 0, 1, (1,))] = 0.4
