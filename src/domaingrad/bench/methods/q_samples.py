"""The gradient weighted by q over samples, and over steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from domaingrad.engine import signal_to_noise

from .base import Method, MethodInfo, Requires, Within
from .learner import Batches, pooled
from .passes import RiskLearner, steady_statistics


class QSamplesLearner(RiskLearner["QSamples"]):
    """The gradient from a pass of its own, so that the statistics may come from anywhere."""

    def backward(self, batches: Batches) -> Tensor:
        """The mean gradient times q."""
        loss = super().backward(batches)
        inputs, labels, _ = pooled(batches)
        with steady_statistics(self.network):
            found = signal_to_noise(self.network, inputs, lambda o: self.setup.loss(o, labels))
        for name, parameter in self.network.named_parameters():
            if parameter.grad is not None:
                parameter.grad *= found[name].bounded
        return loss


class QStepsLearner(RiskLearner["QSteps"]):
    """Keeps running averages of the gradient and of its square."""

    mean: dict[str, Tensor]
    square: dict[str, Tensor]

    def build(self) -> None:
        """Averages of zero."""
        named = list(self.network.named_parameters())
        for name in ("mean", "square"):
            self.keep(**{name: {of: torch.zeros_like(p) for of, p in named}})

    def backward(self, batches: Batches) -> Tensor:
        """The mean gradient times q; of the two corrections for the start one is left."""
        loss = super().backward(batches)
        rest, weight = 1 - self.hp.average, 1 - self.hp.average ** (self.step + 1)
        for name, parameter in self.network.named_parameters():
            if parameter.grad is None:
                continue
            (gradient,) = self.setup.amp.unscaled([parameter.grad])
            mean = self.mean[name].lerp_(gradient, rest)
            square = self.square[name].lerp_(gradient.square(), rest)
            q = mean.square() / square.where(square != 0, 1.0) / weight
            parameter.grad *= q
        return loss


@dataclass(frozen=True)
class QSamples(Method):
    """ḡ q, q = (Σ_s g_s)²/(N Σ_s g_s²) over the samples of a step; see :class:`.q_mean.QMean`."""

    info = MethodInfo(
        name="q-mean-samples",
        title="q-weighted mean, samples",
        summary="the mean gradient, by the share of signal in it over the samples of a step",
        paper="ours, after arXiv 2001.07384 and 2310.07361",
        cost="1 pass, and one for statistics",
        baselines=("erm", "gsnr-dropout"),
    )
    requires = Requires(min_domains=1, fp16=False)
    code = QSamplesLearner


@dataclass(frozen=True)
class QSteps(Method):
    """ḡ q, q = m²/v, m and v running averages of ḡ and ḡ² over steps, corrected as Adam's."""

    info = MethodInfo(
        name="q-mean-steps",
        title="q-weighted mean, steps",
        summary="the mean gradient, by the share of signal in it over the last steps",
        paper="ours, after arXiv 2001.07384 and 2606.16301",
        baselines=("erm", "genie"),
    )
    requires = Requires(min_domains=1, sharding="sample by sample")
    code = QStepsLearner

    average: Annotated[float, Within("it is the old average's share", 0, 1, (1,))] = 0.95
