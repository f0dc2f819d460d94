"""The q-weighted mean of the domains' gradients."""

from __future__ import annotations

from torch import Tensor

from domaingrad.rules.authoring import ElementwiseRule, Proposal, Statistics

from .base import MethodInfo
from .rules import method_of_rule


class QMean(ElementwiseRule):
    """q · ḡ, q = (Σ_e g_e)²/(K Σ_e g_e²), the share of the signal in the domains' gradients.

    Ours: the opposite of GSNR dropout (arXiv 2310.07361), which holds back what has a high q over
    samples; here over domains. q is 1 where all are equal, 0 where their sum is, 1/K in the mean
    over random signs. Where all are 0, so is the update.

    Raises:
        ValueError: fewer than two domains.

    >>> import torch
    >>> QMean()(torch.tensor([[1.0, -2.0, 0.0], [3.0, 2.0, 0.0]]))
    tensor([1.6000, 0.0000, 0.0000])
    """

    statistics = frozenset({"mean", "m2"})

    def propose(self, statistics: Statistics) -> Proposal:
        """ḡ² over ḡ² + the variance."""
        signal = statistics.mean.square()
        noise: Tensor = statistics.m2 / statistics.count
        total = signal + noise
        # A sum that is not finite stays visible; 0/0 is 0.
        return Proposal(statistics.mean * (signal / total.where(total != 0, 1.0)))


Q_MEAN = method_of_rule(
    QMean,
    MethodInfo(
        name="q-mean",
        title="q-weighted mean",
        summary="the mean gradient, by the share of signal in it over the domains",
        paper="ours, after arXiv 2001.07384 and 2310.07361",
        cost="1 pass with a gradient a domain",
    ),
)
