"""MIRO."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from domaingrad.bench.protocol import Choice, space

from .base import Method, MethodInfo, Requires, Weight
from .learner import Batches, Learner
from .passes import forward, full

START, FLOOR, FASTER = 0.1, 1e-5, 10.0
"""Variances at first, the least that they may be, how much faster they learn."""
RESNET = ("maxpool", "layer1", "layer2", "layer3", "layer4")
SEQUENCES = ("blocks", "stages", "encoder.layers")
"""Names of what holds the blocks of ViTs and of newer convolutional networks."""


def stages(body: nn.Module) -> list[str]:
    """Names of the modules whose outputs are compared; the body itself where none are known."""
    modules = dict(body.named_modules())
    if "layer4" in modules:
        return [name for name in RESNET if name in modules]
    for name in SEQUENCES:
        if name in modules:
            return [f"{name}.{child}" for child, _ in modules[name].named_children()]
    return [""]


@contextmanager
def recorded(body: nn.Module, names: list[str]) -> Iterator[list[Tensor]]:
    """The outputs of these modules in a forward pass inside."""
    found: list[Tensor] = []
    modules = dict(body.named_modules())
    hooks = [
        modules[name].register_forward_hook(lambda _module, _inputs, output: found.append(output))
        for name in names
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def channels_last(values: Tensor) -> Tensor:
    """Maps [n, C, H, W] with C at the end, where tokens [n, T, C] and vectors [n, C] have it."""
    return full(values).movedim(1, -1) if values.dim() == 4 else full(values)


class MIROLearner(Learner["MIRO"]):
    """Keeps the network as it was."""

    def build(self) -> None:
        """The old network, and a variance for each channel of each stage."""
        self.names = stages(self.network.body)
        self.oracle = deepcopy(self.network).requires_grad_(False).eval()
        like = next(self.network.parameters())
        with torch.no_grad(), recorded(self.oracle.body, self.names) as found:
            self.oracle.features(torch.zeros(2, *self.network.shape, device=like.device))
        start = math.log(math.expm1(START - FLOOR))
        widths = [channels_last(each).shape[-1] for each in found]
        self.variances = nn.ParameterList(
            torch.full((width,), start, dtype=like.dtype) for width in widths
        )
        self.of_variances = self.setup.optimizer(self.variances.parameters())
        for group in self.of_variances.param_groups:
            group["lr"] *= FASTER
            group["rate"] *= FASTER  # what the schedule takes its share of, now and later

    def backward(self, batches: Batches) -> Tensor:
        """Of the network and of the variances."""
        loss = super().backward(batches)
        samples = sum(len(y) for _, y in batches.values())
        self.setup.processes.average_gradients(self.variances.parameters(), samples)
        return loss

    def objective(self, batches: Batches) -> Tensor:
        """Risk, and what is lost of the old features."""
        inputs = torch.cat([x for x, _ in batches.values()])
        with recorded(self.network.body, self.names) as now:
            done = forward(self.setup, batches)
        with torch.no_grad(), recorded(self.oracle.body, self.names) as before:
            self.oracle.features(inputs)
        terms = []
        for new, old, free in zip(now, before, self.variances, strict=True):
            variance = F.softplus(free) + FLOOR
            apart = (channels_last(new) - channels_last(old)).square() / variance
            terms.append((apart + variance.log()).mean() / 2)
        return self.total(risk=done.risk, penalty=self.hp.weight * torch.stack(terms).sum())

    def update(self, batches: Batches) -> Tensor:
        """Steps of both."""
        loss = self.backward(batches)
        for optimizer in (self.optimizer, self.of_variances):
            self.setup.amp.step(optimizer)
            optimizer.zero_grad()
        return loss


@dataclass(frozen=True)
class MIRO(Method):
    """R̄ + λ Σ_l ½ mean[(F_l − F⁰_l)²/σ_l² + log σ_l²], F⁰ the features of the network at first.

    arXiv 2203.10789 §3, with the authors' identity for the mean and a variance σ² = softplus(b) +
    1e-5 a channel, which begins at 0.1 and learns ten times faster. Stages: a ResNet's stem and
    four stages, a ViT's blocks; the features alone for other networks. Without pretrained weights
    it holds the network to noise.
    """

    info = MethodInfo(
        name="miro",
        title="MIRO",
        summary="features that stay near those of the pretrained network",
        paper="arXiv 2203.10789",
        cost="1 pass, a forward pass of the old network, and a copy of it",
    )
    search = space(weight=Choice((1.0, 0.1, 0.01, 0.001)))
    requires = Requires(min_domains=1, features=True, sharding="sample by sample")
    code = MIROLearner

    weight: Weight = 0.1
