"""AND-mask."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ._scale import kept_share
from ._sign import at_least
from .base import ElementwiseRule, Proposal
from .statistics import Statistics

Average = Literal["arithmetic", "geometric"]


class ANDMask(ElementwiseRule):
    """Keep the components on whose sign the domains agree.

    Parascandolo et al., arXiv 2009.00329, §2.3:

    mask = 1[ |(1/K) Σ_e sign(g_e)| ≥ τ ],  update = mask · ḡ,  ḡ = (1/K) Σ_e g_e

    |mean sign| is quantised: for K = 2 it is 0 or 1, for K = 3 it is 1/3 or 1, for K = 5 .2, .6
    or 1 (unless a gradient is exactly zero). So with two domains τ makes no difference, and with
    few of them most values of τ do the same.
    Components whose true gradient is zero (a bias before a norm) hold rounding noise with random
    signs; they vote like any other and move the scale of ``rescale``.

    Args:
        tau: threshold τ in [0, 1]; 1 asks for the same sign in every domain, 0 keeps all.
        rescale: divide by the kept share of the parameter tensor (plus 1e-10), as DomainBed
            always does and the authors' code does on request. The scale is per tensor: over the
            given stack in ``rule(G)``, over each parameter inside a model.
        average: ``"geometric"`` replaces ḡ by sign(ḡ)·exp((1/K) Σ_e log(|g_e| + 1e-10)), a
            variant in the authors' code; doubling all gradients then doubles the update only
            where they are far above 1e-10.

    Raises:
        ValueError: τ outside [0, 1], an unknown average, or fewer than two domains.

    >>> ANDMask(rescale=False)(torch.tensor([[1.0, -2.0], [3.0, 3.0]]))
    tensor([2., 0.])
    """

    def __init__(
        self, tau: float = 1.0, rescale: bool = True, average: Average = "arithmetic"
    ) -> None:
        if not 0.0 <= tau <= 1.0:
            raise ValueError(f"ANDMask needs 0 ≤ tau ≤ 1, a share of agreeing signs; found {tau}.")
        if average not in get_args(Average):
            raise ValueError(f"average must be 'arithmetic' or 'geometric'; found {average!r}.")
        self.tau = tau
        self.rescale = rescale
        self.average = average
        self.scope = "tensor" if rescale else "component"
        self.statistics = (
            frozenset({"mean", "sign_sum"})
            if average == "arithmetic"
            else frozenset({"mean", "sign_sum", "log_sum"})
        )

    def propose(self, statistics: Statistics) -> Proposal:
        """Mask · mean, and the mask, whose sum is what it keeps."""
        mask = at_least(self.tau, statistics)
        # A product, not a selection: a non-finite mean must stay visible where the mask is 0.
        return Proposal(mask * self._average(statistics), (mask,) if self.rescale else ())

    def finish(self, proposal: Proposal, tally: Tensor) -> Tensor:
        """Divide by the share of components kept."""
        return proposal.update.div_(kept_share(tally))

    def _average(self, statistics: Statistics) -> Tensor:
        if self.average == "arithmetic":
            return statistics.mean
        return torch.sign(statistics.mean) * torch.exp(statistics.log_sum / statistics.count)
