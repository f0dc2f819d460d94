"""SAM."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from domaingrad.bench.protocol import Choice, space

from .base import Method, MethodInfo, Rate, Requires
from .learner import Batches
from .passes import RiskLearner, steady_statistics

FLOOR = 1e-12


@contextmanager
def moved(parameters: list[Tensor], by: list[Tensor]) -> Iterator[None]:
    """Parameters that are elsewhere inside, and to the bit where they were after."""
    before = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        torch._foreach_add_(parameters, by)
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(parameters, before)


S_co = TypeVar("S_co", bound="SAM", covariant=True)


class SharpnessLearner(RiskLearner[S_co]):
    """Two gradients: here, and from where the first one leads."""

    def climb(self, gradients: list[Tensor], norm: Tensor) -> list[Tensor]:
        """Where the second gradient is taken, from the first one and its norm."""
        return list(torch._foreach_mul(gradients, self.hp.rho / (norm + FLOOR)))

    def combined(self, first: list[Tensor], second: list[Tensor]) -> list[Tensor]:
        """The gradient of the step."""
        return second

    def backward(self, batches: Batches) -> Tensor:
        """Two passes over the batch."""
        loss = super().backward(batches)
        parameters = [p for p in self.network.parameters() if p.grad is not None]
        first = [p.grad.clone() for p in parameters if p.grad is not None]
        plain = self.setup.amp.unscaled(first)
        norm = torch.stack(torch._foreach_norm(plain)).norm()
        climbed = self.climb(plain, norm)
        for parameter in parameters:
            parameter.grad = None
        with moved(list(parameters), climbed), steady_statistics(self.network):
            super().backward(batches)
        second = [p.grad for p in parameters if p.grad is not None]
        for parameter, gradient in zip(parameters, self.combined(first, second), strict=True):
            parameter.grad = gradient
        return loss


@dataclass(frozen=True)
class SAM(Method):
    """∇R̄ at θ + ρ ∇R̄/‖∇R̄‖, over all parameters (arXiv 2010.01412, algorithm 1)."""

    info = MethodInfo(
        name="sam",
        title="SAM",
        summary="flat minima: the gradient from the worst place nearby",
        paper="arXiv 2010.01412",
        cost="2 passes",
    )
    search = space(rho=Choice((0.01, 0.02, 0.05, 0.1)))
    requires = Requires(min_domains=1, sharding="sample by sample")
    code = SharpnessLearner

    rho: Rate = 0.05
