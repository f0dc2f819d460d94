"""SAND-mask."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ._scale import kept_share
from ._sign import TIE, above
from .base import ElementwiseRule, Proposal
from .statistics import Statistic, Statistics

Variance = Literal["absolute", "relative"]

ONE_FROM = 9.1
"""From here on tanh is 1 in float32."""


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
        """Product of m and mean, and m, whose sum is what it keeps."""
        count, mean = statistics.count, statistics.mean
        variance = statistics.m2 * (1 / (count - 1))
        if self.variance == "relative":
            # The ratio first: mean² underflows long before the mean does.
            smallest = torch.finfo(mean.dtype).tiny
            variance = variance.sqrt_().div_(mean.abs().clamp_(min=smallest)).square_()
        margin = statistics.sign_sum.abs().to(mean.dtype).mul_(1 / count).sub_(self.tau)
        margin.clamp_(min=TIE)
        m = _tanh(margin.mul_(self.k).div_(variance)).mul_(above(self.tau, statistics))
        # A product, not a selection: a non-finite mean must stay visible where m is 0.
        return Proposal(mean * m, (m,))

    def finish(self, proposal: Proposal, tally: Tensor) -> Tensor:
        """Divide by the mean of m."""
        return proposal.update.div_(kept_share(tally))


def _tanh(x: Tensor) -> Tensor:
    """Tanh of x ≥ 0, twice as fast on a CPU as torch.tanh and as exact."""
    if torch.compiler.is_compiling() and x.dtype == torch.float32:
        return _tanh_by_fraction(x)
    e = torch.expm1(-2.0 * x)
    return -e / (2.0 + e)


def _tanh_by_fraction(x: Tensor) -> Tensor:
    """The same for a compiler, which makes exp(x) − 1 of expm1 and so loses small masks.

    Lambert's continued fraction of tanh(x/2) to its seventh term, p/q, and tanh(x) =
    2pq / (p² + q²): only sums of what is positive, and one division. Within 4e-7 of tanh(x),
    relatively, for float32.
    """
    y = x.clamp(max=ONE_FROM) * 0.5
    s = y * y
    p = y * (1 + s * (17325 / 135135 + s * (378 / 135135 + s * (1 / 135135))))
    q = 1 + s * (62370 / 135135 + s * (3150 / 135135 + s * (28 / 135135)))
    return (2 * p * q / (p * p + q * q)).clamp(max=1.0)
