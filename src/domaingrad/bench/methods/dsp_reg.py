"""DSP-Reg."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from domaingrad.bench.protocol import PowerOfTen, space
from domaingrad.engine import RunningStatistics

from .base import Method, MethodInfo, Weight
from .learner import Batches, Learner
from .passes import domain_gradients, leave


def sensitivity(variance: Tensor) -> Tensor:
    """s, the variance of a component's gradients over domains by its mean over the tensor."""
    mean = variance.mean()
    return torch.where(mean > 0, variance / mean, 1.0)


class DSPRegLearner(Learner["DSPReg"]):
    """Each domain's gradient is folded into statistics, so memory does not grow with domains."""

    def backward(self, batches: Batches) -> Tensor:
        """The mean gradient, and decay by sensitivity."""
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        running = [RunningStatistics(["mean", "m2"]) for _ in parameters]
        risks = []
        for risk, gradients in domain_gradients(self.setup, self.network, batches):
            risks.append(risk)
            for statistics, gradient in zip(running, gradients, strict=True):
                statistics.fold(gradient)
        found, decay = [], []
        for parameter, each in zip(parameters, running, strict=True):
            of_domains, here = each.statistics(), parameter.detach()
            pull = 2 * self.hp.weight * sensitivity(of_domains.m2) * here
            decay.append((pull * here).sum() / 2)
            found.append(of_domains.mean + self.setup.amp.scale(pull))
        leave(self.network, found)
        self.total(risk=torch.stack(risks).mean(), penalty=torch.stack(decay).sum())
        return torch.stack(risks).mean()


@dataclass(frozen=True)
class DSPReg(Method):
    """ḡ + 2λ s θ, s = Var_e(g_e) by its mean over the tensor, and without a gradient.

    After arXiv 2601.19394, of which the abstract was read: a soft penalty on parameters whose
    gradients vary over domains. Ours: that it is λ Σ_j s_j θ_j², the scale of s, λ and its search.
    """

    info = MethodInfo(
        name="dsp-reg",
        title="DSP-Reg",
        summary="weight decay for parameters whose gradients vary over domains",
        paper="after arXiv 2601.19394, our reading",
        cost="1 pass in K parts",
    )
    search = space(weight=PowerOfTen(-6, -2))
    code = DSPRegLearner

    weight: Weight = 1e-4
