"""The mean of the domains' gradients."""

from __future__ import annotations

from .base import ElementwiseRule, Proposal
from .statistics import Statistic, Statistics


class Mean(ElementwiseRule):
    """The mean of the domains' gradients: ERM on domain-balanced batches.

    update = (1/K) Σ_e g_e

    >>> import torch
    >>> Mean()(torch.tensor([[1.0, -2.0], [3.0, 1.0]]))
    tensor([ 2.0000, -0.5000])
    """

    minimum_domains = 1
    statistics: frozenset[Statistic] = frozenset({"mean"})

    def propose(self, statistics: Statistics) -> Proposal:
        """The mean itself."""
        return Proposal(statistics.mean)
