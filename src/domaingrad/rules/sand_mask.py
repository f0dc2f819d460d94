"""SAND-mask."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ._scale import kept_share, tally_kept
from ._sign import TIE, above
from .base import ElementwiseRule, Proposal
from .statistics import Statistic, Statistics

Variance = Literal["absolute", "relative"]


class SANDMask(ElementwiseRule):
    """Weight each component by how far the domains agree in sign and size.

    Shahtalebi et al., arXiv 2106.02266:

    v = Var_e(g_e) (unbiased),  m = max(0, tanh( k·(|(1/K) Σ_e sign(g_e)| − τ) / v )),
    update = m · ḡ / (1e-10 + mean of m over the tensor)

    The equation is that of the authors' code; the paper's own formula could not be read. The limit
    v → 0 is ours: m = 1 where |mean sign| > τ, else 0.

    v has the unit of gradient², so the mask changes with loss scaling, loss reduction and model
    size: undo AMP's loss scale first (``GradientAgreement(..., scaler=...)`` does). At usual
    gradient sizes m is nearly 0 or 1, a strict AND-mask with rescale. The scale is per tensor:
    over the given stack in ``rule(G)``, over each parameter inside a model.

    Args:
        tau: threshold τ in [0, 1). DomainBed's default of 1 never trains: |mean sign| − 1 ≤ 0.
        k: steepness, positive.
        variance: ``"relative"`` (ours) divides v by ḡ², a squared coefficient of variation, so
            that k means the same for every tensor, model and loss scale (as far as the squares of
            the gradients do not leave the range of the dtype).

    Raises:
        ValueError: τ outside [0, 1), k ≤ 0, an unknown variance, or fewer than two domains.

    >>> SANDMask(tau=0.5)(torch.tensor([[1.0, -2.0], [1.5, 3.0]]))
    tensor([2.5000, 0.0000])
    """

    scope = "tensor"
    statistics: frozenset[Statistic] = frozenset({"mean", "m2", "sign_sum"})

    def __init__(self, tau: float = 0.5, k: float = 10.0, variance: Variance = "absolute") -> None:
        if tau >= 1.0 - TIE:
            raise ValueError(
                f"SANDMask with tau ≥ 1 never trains, because |mean sign| − tau is then at most 0 "
                f"and the mask 0 everywhere; found {tau}. Choose 0 ≤ tau < 1."
            )
        if not tau >= 0.0:
            raise ValueError(f"SANDMask needs 0 ≤ tau < 1, a share of agreeing signs; found {tau}.")
        if not 0.0 < k < float("inf"):
            raise ValueError(f"SANDMask needs a finite k > 0, the steepness of tanh; found {k}.")
        if variance not in get_args(Variance):
            raise ValueError(f"variance must be 'absolute' or 'relative'; found {variance!r}.")
        self.tau = tau
        self.k = k
        self.variance = variance

    def propose(self, statistics: Statistics) -> Proposal:
        """Product of m and mean, and the sum of m."""
        count, mean = statistics.count, statistics.mean
        variance = statistics.m2 / (count - 1)
        if self.variance == "relative":
            # The ratio first: mean² underflows long before the mean does.
            smallest = torch.finfo(mean.dtype).tiny
            variance = variance.sqrt_().div_(mean.abs().clamp_(min=smallest)).square_()
        margin = statistics.sign_sum.abs().to(mean.dtype).div_(count).sub_(self.tau)
        margin.clamp_(min=TIE)
        m = _tanh(margin.mul_(self.k).div_(variance))
        m = torch.where(above(self.tau, statistics) > 0, m, 0.0)
        # A product, not a selection: a non-finite mean must stay visible where m is 0.
        return Proposal(mean * m, tally_kept(m))

    def finish(self, proposal: Proposal, tally: Tensor) -> Tensor:
        """Divide by the mean of m."""
        return proposal.update.div_(kept_share(tally))


def _tanh(x: Tensor) -> Tensor:
    """Tanh of x ≥ 0, twice as fast on a CPU as torch.tanh and as exact."""
    e = torch.expm1(-2.0 * x)
    return -e / (2.0 + e)
