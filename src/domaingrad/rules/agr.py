"""Agr-Sum and Agr-Rand, the gradient surgery of Mansilla et al."""

from __future__ import annotations

import torch
from torch import Tensor

from ._sign import at_least
from .base import ElementwiseRule, Proposal, RandomRule
from .statistics import Statistic, Statistics


def _agrees(statistics: Statistics) -> Tensor:
    return at_least(1.0, statistics)


def _agreeing_sum(statistics: Statistics, agree: Tensor) -> Tensor:
    # A product, not a selection: a non-finite sum must stay visible where agree is 0.
    return statistics.mean * (agree * statistics.count)


class AgrSum(ElementwiseRule):
    """Sum the gradients where all domains agree in sign, else 0.

    Mansilla et al., arXiv 2108.01621, as in the authors' code:

    agree = 1[ |Σ_e sign(g_e)| = K ],  update = agree · Σ_e g_e

    A sum, not a mean, and no rescale; a zero in any domain is disagreement.

    Raises:
        ValueError: fewer than two domains.

    >>> AgrSum()(torch.tensor([[1.0, -2.0], [3.0, 3.0]]))
    tensor([4., 0.])
    """

    statistics: frozenset[Statistic] = frozenset({"mean", "sign_sum"})

    def propose(self, statistics: Statistics) -> Proposal:
        """The sum where the domains agree."""
        return Proposal(_agreeing_sum(statistics, _agrees(statistics)))


class AgrRand(RandomRule, ElementwiseRule):
    """Sum where all domains agree in sign, Gaussian noise elsewhere.

    Mansilla et al., arXiv 2108.01621, as in the authors' code:

    agree = 1[ |Σ_e sign(g_e)| = K ],  s = mean of |Σ_e g_e| over the agreeing components,
    update = agree · Σ_e g_e + (1 − agree) · N(0, s²)

    The noise has no sign to flip: rule(−G) = −rule(G) holds on the agreeing components alone.
    s is one number over the whole model: over the given stack in ``rule(G)``, over all parameters
    inside a model. Ours: s = 0 where nothing agrees (the authors' code gives NaN), and no noise
    where the gradient is zero in every domain (dead units) unless asked for.

    Args:
        generator: source of the noise, best on the gradients' device; without one, a generator
            with seed 0 is made there, whatever torch.manual_seed says.
        noise_where_silent: draw noise also where every domain's gradient is zero, as the authors'
            code does.

    Raises:
        ValueError: fewer than two domains.

    >>> update = AgrRand()(torch.tensor([[1.0, -2.0, 0.0], [3.0, 3.0, 0.0]]))
    >>> update[0].item(), update[1].item() != 0, update[2].item()
    (4.0, True, 0.0)
    """

    scope = "model"
    draws = True
    statistics: frozenset[Statistic] = frozenset({"mean", "sign_sum", "active"})

    def __init__(
        self, generator: torch.Generator | None = None, noise_where_silent: bool = False
    ) -> None:
        self.generator = generator
        self.noise_where_silent = noise_where_silent

    def propose(self, statistics: Statistics) -> Proposal:
        """The sum where the domains agree, its size and their number to be summed, and the rest.

        The mask of the rest leaves out what is zero in every domain, unless asked for.
        """
        agree = _agrees(statistics)
        update = _agreeing_sum(statistics, agree)
        noisy = 1 - agree
        if not self.noise_where_silent:
            noisy = noisy * statistics.active.clamp(max=1)
        return Proposal(update, (update.abs(), agree), noisy.to(torch.int8))

    def finish(self, proposal: Proposal, tally: Tensor) -> Tensor:
        """Add the noise where the domains disagree."""
        if proposal.mask is None:
            raise ValueError("AgrRand.finish expects the mask of its own proposal; found none.")
        size, agreeing, _ = tally.unbind()
        scale = size / agreeing.clamp(min=1)
        update = proposal.update
        generator = self._generator_on(update.device)
        whole = proposal.whole
        noise = torch.randn(
            update.shape if whole is None else (whole.size,),
            generator=generator,
            dtype=update.dtype,
            device=generator.device,
        )
        if whole is not None:
            noise = noise[whole.part]
        return update.add_(noise.to(update.device).mul_(proposal.mask).mul_(scale))
