"""Networks on the device with a mixed batch of several domains, and steps with them."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import pairwise

import models  # of benchmarks/
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import domaingrad as dg
from tests.engine import equations
from tests.pretended_cuda.counting import Counts, counted

Step = Callable[[], None]

CLASSES = 4
WARM = 2
"""Steps before the one that is counted: the first captures the model and is verified, the second
may be audited."""

RULES: dict[str, Callable[[], dg.rules.Rule]] = {
    "Mean": dg.Mean,
    "ANDMask": lambda: dg.ANDMask(tau=0.8),
    "SANDMask": dg.SANDMask,
    "AgrSum": dg.AgrSum,
    "AgrRand": dg.AgrRand,
    "PCGrad": dg.PCGrad,
}


def mlp() -> nn.Module:
    widths = (16, 32, 32)
    layers = [nn.Sequential(nn.Linear(i, o), nn.ReLU()) for i, o in pairwise(widths)]
    return nn.Sequential(*layers, nn.Linear(widths[-1], CLASSES))


def convnet() -> nn.Module:
    """Batch norm in training mode, a strided and a grouped convolution."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, 1, 1, groups=2),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP": (mlp, (16,)),
    "CNN": (convnet, (3, 8, 8)),
    "ViT": (lambda: models.ViT(CLASSES, size=16, patch=8, width=24, depth=2), (3, 16, 16)),
    "ResNet-18": (lambda: models.resnet18(CLASSES), (3, 32, 32)),
    "ResNet-50": (lambda: models.resnet50(CLASSES), (3, 32, 32)),
}


@dataclass(frozen=True)
class Mixed:
    """A model and a shuffled batch, on one device."""

    model: nn.Module
    x: Tensor
    y: Tensor
    domain: Tensor
    autocast: torch.dtype | None = None
    scaler: torch.amp.GradScaler | None = None

    def losses(self, outputs: Tensor) -> Tensor:
        return F.cross_entropy(outputs, self.y, reduction="none")

    def precision(self) -> torch.autocast:
        """What the forward pass and the losses are computed in."""
        return torch.autocast(self.x.device.type, self.autocast, enabled=self.autocast is not None)

    def scaled(self, losses: Tensor) -> Tensor:
        return losses if self.scaler is None else self.scaler.scale(losses)

    @property
    def scale(self) -> float:
        """That ``.grad`` has."""
        return 1.0 if self.scaler is None else self.scaler.get_scale()

    @property
    def parts(self) -> dict[int, tuple[Tensor, Tensor]]:
        """The samples and targets of each domain."""
        rows = {label: self.domain == label for label in sorted(set(self.domain.tolist()))}
        return {
            label: (self.x[own.to(self.x.device)], self.y[own.to(self.y.device)])
            for label, own in rows.items()
        }

    @property
    def gradients(self) -> dict[str, Tensor]:
        """On the host, without the scale; every parameter must have one."""
        found = {name: p.grad for name, p in self.model.named_parameters()}
        missing = [name for name, gradient in found.items() if gradient is None]
        assert not missing, f"no gradient of {missing}"
        return {name: g.cpu() / self.scale for name, g in found.items() if g is not None}

    def to(self, device: str) -> Mixed:
        """A copy; the domain stays on the host."""
        model, x, y = deepcopy(self.model).to(device), self.x.to(device), self.y.to(device)
        return replace(self, model=model, x=x, y=y)


def mixed(
    network: str, domains: int = 3, each: int = 4, dtype: torch.dtype = torch.float32
) -> Mixed:
    """On the host."""
    make, shape = NETWORKS[network]
    torch.manual_seed(0)
    draw = torch.Generator().manual_seed(1)
    count = domains * each
    x = torch.randn(count, *shape, generator=draw, dtype=dtype)
    y = torch.randint(CLASSES, (count,), generator=draw)
    domain = torch.arange(domains).repeat_interleave(each)[torch.randperm(count, generator=draw)]
    return Mixed(make().to(dtype), x, y, domain)


def counts_of(step: Callable[[], object], warm: int = WARM) -> Counts:
    """Of one step after some that are not counted."""
    for _ in range(warm):
        step()
    with counted() as counts:
        step()
    return counts


def mixed_batch(batch: Mixed, agree: dg.GradientAgreement) -> Step:
    def step() -> None:
        batch.model.zero_grad()
        with batch.precision():
            losses = batch.losses(agree(batch.x, batch.domain))
        agree.backward(batch.scaled(losses))

    return step


def streaming(batch: Mixed, agree: dg.GradientAgreement) -> Step:
    parts = batch.parts

    def step() -> None:
        batch.model.zero_grad()
        for name, (x, y) in parts.items():
            with agree.domain(name):
                with batch.precision():
                    loss = F.cross_entropy(batch.model(x), y)
                batch.scaled(loss).backward()
        agree.combine()

    return step


def accumulation(batch: Mixed, agree: dg.GradientAgreement) -> Step:
    """Two halves of a batch."""
    halves = [
        replace(batch, x=x, y=y, domain=domain)
        for x, y, domain in zip(
            batch.x.chunk(2), batch.y.chunk(2), batch.domain.chunk(2), strict=True
        )
    ]

    def step() -> None:
        batch.model.zero_grad()
        for half in halves:
            with batch.precision():
                losses = half.losses(agree(half.x, half.domain))
            agree.accumulate(batch.scaled(losses))
        agree.combine()

    return step


WAYS = {"mixed batch": mixed_batch, "streaming": streaming, "accumulation": accumulation}

EQUATIONS = {
    "Mean": equations.mean,
    "ANDMask": equations.and_mask(0.8, True),
    "SANDMask": equations.sand_mask(0.5, 10.0),
    "AgrSum": equations.agr_sum,
}


def separate_gradients(batch: Mixed) -> equations.Stacks:
    """[K, *shape] of each parameter, by a pass a domain."""
    named = dict(batch.model.named_parameters())
    rows = []
    for x, y in batch.parts.values():
        with batch.precision():
            loss = F.cross_entropy(batch.model(x), y)
        rows.append(torch.autograd.grad(batch.scaled(loss), list(named.values())))
    return {
        name: np.stack([gradient.double().cpu().numpy() / batch.scale for gradient in own])
        for name, own in zip(named, zip(*rows, strict=True), strict=True)
    }
