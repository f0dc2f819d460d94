"""EQRM."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor
from torch.special import ndtr, ndtri

from domaingrad.bench.protocol import Floor, PowerOfTen, Uniform, space

from .base import MethodInfo, Rate, Requires, TwoReadings, Updates, Within
from .passes import RiskWeightsLearner

PARTS, ROUNDS = 64, 9
"""A bracket is cut into so many parts at once, so often: 64^−9 of it is left."""


def bandwidth(risks: Tensor) -> tuple[Tensor, Tensor]:
    """H = 1.06 std K^−1/5 (Silverman's), and ∂h/∂R_e, shape [K]; 0 where all are equal."""
    count, off = len(risks), risks - risks.mean()
    factor = 1.06 * count**-0.2
    std = (off.square().sum() / (count - 1)).sqrt().clamp(min=torch.finfo(risks.dtype).tiny)
    return factor * std, factor * off / ((count - 1) * std)


def quantile(risks: Tensor, alpha: float | Tensor) -> Tensor:
    """Q with F(q) = α, F(q) = (1/K) Σ_e Φ((q − R_e)/h) a Gaussian estimate of the risks' law."""
    width, _ = bandwidth(risks)
    level = torch.zeros_like(width) + alpha
    low, high = (risks.min() + width * ndtri(level), risks.max() + width * ndtri(level))
    grid = torch.linspace(0, 1, PARTS + 1, dtype=risks.dtype, device=risks.device)
    for _ in range(ROUNDS):
        points = low + (high - low) * grid
        below = (ndtr((points[:, None] - risks) / width).mean(1) < alpha).sum().clamp(1, PARTS)
        low, high = points.index_select(0, torch.stack([below - 1, below])).unbind()
    middle: Tensor = (low + high) / 2
    return middle


def slopes(risks: Tensor, alpha: float | Tensor) -> Tensor:
    """∂q/∂R_e = −(∂F/∂R_e)/F′(q), shape [K], through the bandwidth, too; their sum is 1."""
    width, of_width = bandwidth(risks)
    u: Tensor = (quantile(risks, alpha) - risks) / width
    density = (-u.square() / 2).exp()
    found: Tensor = (density + (density * u).sum() * of_width) / density.sum()
    return found


def published_slopes(risks: Tensor, alpha: float | Tensor) -> Tensor:
    """What autograd makes of bisection: it goes through the two ends of the first bracket alone."""
    width, of_width = bandwidth(risks)
    # Of a number on the host, where nothing waits for it.
    twice = torch.as_tensor(2 * alpha - 1, dtype=torch.float64)
    found = torch.erfinv(twice)
    level = math.sqrt(2) * (found if isinstance(alpha, Tensor) else found.item())
    low, high = risks.min() + width * level, risks.max() + width * level
    share = ((quantile(risks, alpha) - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    ends = torch.zeros_like(risks).index_add(
        0, torch.stack([risks.argmin(), risks.argmax()]), torch.stack([1 - share, share])
    )
    return ends + level * of_width


class EQRMLearner(RiskWeightsLearner["EQRM"]):
    """ERM first; then the quantile, with an optimizer and a learning rate of its own."""

    stacks: ClassVar[bool] = True

    def weight(self) -> float:
        """1 from the anneal on."""
        return float(self.step >= self.hp.anneal)

    def coming(self) -> None:
        """The other optimizer, at the anneal."""
        if self.step == self.hp.anneal and not self.hp.as_published:
            rate = self.hp.learning_rate
            self.optimizer = self.setup.optimizer(self.network.parameters(), learning_rate=rate)

    def multipliers(self, risks: Tensor) -> Tensor:
        """K ∂q/∂R_e, or 1 before the anneal."""
        late = self.weight()
        if isinstance(late, float) and not late:
            return torch.ones_like(risks)
        of = published_slopes if self.hp.as_published else slopes
        found = len(risks) * of(risks.double(), self.hp.alpha).to(risks)
        return torch.where(torch.as_tensor(late) > 0, found, torch.ones_like(risks))


@dataclass(frozen=True)
class EQRM(TwoReadings):
    """The α-quantile of the risks' law over domains, from update ``anneal`` on; R̄ before.

    arXiv 2207.09944 §4. As meant: the quantile's own derivative. As published (DomainBed): that of
    its bisection, and no new optimizer at the anneal, which random draws leave no whole number.
    """

    meant = MethodInfo(
        name="eqrm",
        title="EQRM",
        summary="a high quantile of the risks over domains, as of a random new domain",
        paper="arXiv 2207.09944",
    )
    published = "EQRM with the gradient of its bisection, and the optimizer as it was"
    search = space(
        alpha=Uniform(0.5, 0.99),
        anneal=Floor(PowerOfTen(2.5, 3.5)),
        learning_rate=PowerOfTen(-7, -5),
    )
    requires = Requires(sharding="sample by sample")
    code = EQRMLearner

    alpha: Annotated[float, Within("it is a quantile inside of the law", 0, 1, (0, 1))] = 0.75
    anneal: Updates = 2500
    learning_rate: Rate = 1e-6
