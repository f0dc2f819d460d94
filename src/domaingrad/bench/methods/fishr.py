"""Fishr."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from domaingrad.bench.domains import DataError
from domaingrad.bench.protocol import Floor, PowerOfTen, Uniform, space

from .base import Method, MethodInfo, Requires, Updates, Weight, Within
from .passes import AnnealedLearner, Forward, errors


def variance(
    features: Tensor, errors: Tensor, bias: bool = True, count: Tensor | int | None = None
) -> Tensor:
    """Of single samples' gradients of a linear classifier, errors ⊗ [z, 1]; shape [C, d + 1].

    E[g²] = (errors²)ᵀ (z²)/n and E[g] = errorsᵀ z/n, so no sample needs a gradient of its own.

    Args:
        features: z, [n, d].
        errors: ∂ loss/∂ outputs, [n, C]; p − 1_y for cross-entropy, 0 for what pads.
        bias: whether the classifier has one; else [C, d].
        count: n, where there is padding.
    """
    z = F.pad(features, (0, 1), value=1.0) if bias else features
    n = len(z) if count is None else count
    return (errors.square().T @ z.square() - (errors.T @ z).square() / n) / n


class FishrLearner(AnnealedLearner["Fishr"]):
    """Keeps a running average of each domain's variances."""

    stacks: ClassVar[bool] = True
    average: Tensor

    def build(self) -> None:
        """An average of zeros."""
        head = self.network.classifier
        if not isinstance(head, nn.Linear):
            raise DataError(
                f"Fishr has the closed form of a linear classifier's gradients; found a "
                f"{type(head).__name__}. Use another backbone or the method erm."
            )
        self._bias = head.bias is not None
        columns = head.in_features + self._bias
        self.keep(average=torch.zeros(len(self.setup.domains), head.out_features, columns))

    def penalty(self, done: Forward) -> Tensor:
        """How far the domains' averages are apart; the gradient is that of this step's part."""
        slopes = errors(self.setup, done.outputs, done.labels)
        counts: Iterable[Tensor | int] = done.sizes
        if done.members.counted is not None:
            slopes = slopes * done.members.counted[:, None]
            counts = done.members.counts(slopes)
        parts = zip(done.by_domain(done.features), done.by_domain(slopes), counts, strict=True)
        now = torch.stack([variance(z, error, self._bias, count) for z, error, count in parts])
        average = self.hp.ema * self.average + (1 - self.hp.ema) * now
        self.average = average.detach()
        each = average / (1 - self.hp.ema)
        return (each - each.mean(0)).square().mean()


@dataclass(frozen=True)
class Fishr(Method):
    """R̄ + w (1/K) Σ_e mean_p (v_e − v̄)², v_e the variance of the classifier's gradients.

    arXiv 2109.02934 §3; with DomainBed's moving average u ← ρu + (1−ρ)v and v_e = u/(1−ρ), weight
    0 before the anneal, where Adam begins anew. The average is kept with the run; there it is not.
    """

    info = MethodInfo(
        name="fishr",
        title="Fishr",
        summary="gradients of single samples with equal variance in all domains",
        paper="arXiv 2109.02934",
        cost="1 pass, and products of features and errors",
    )
    search = space(weight=PowerOfTen(1, 4), anneal=Floor(Uniform(0, 5000)), ema=Uniform(0.9, 0.99))
    requires = Requires(features=True)
    code = FishrLearner

    weight: Weight = 1000.0
    anneal: Updates = 1500
    ema: Annotated[
        float, Within("it is the old average's share, and 1 learns nothing", 0, 1, (1,))
    ] = 0.95
