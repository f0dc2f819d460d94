"""Norms of activations and parametrisations of weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm

from .problem import CLASSES, Apply, normal, problem


def cnn(norm: Callable[[int], nn.Module]) -> nn.Sequential:
    # No bias before a norm: its true gradient is zero.
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False),
        norm(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, stride=2, bias=False),
        norm(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, CLASSES),
    )


def in_eval_mode(norm: Callable[[int], nn.Module]) -> nn.Module:
    model = cnn(norm)
    for module in model.modules():
        if hasattr(module, "running_mean"):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return model.eval()


def layer_norms() -> nn.Module:
    """Over several dimensions, without bias and without parameters."""
    return nn.Sequential(
        nn.LayerNorm((4, 6)),
        nn.Linear(6, 5),
        nn.LayerNorm(5, bias=False),
        nn.Tanh(),
        nn.Linear(5, 5),
        nn.LayerNorm(5, elementwise_affine=False),
        Apply(lambda x: x.square().mean(1)),
        nn.Linear(5, CLASSES),
    )


def norms_without_parameters() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.GroupNorm(2, 4, affine=False),
        nn.Tanh(),
        nn.LocalResponseNorm(3, alpha=0.5),
        nn.Conv2d(4, 4, 3, bias=False),
        nn.InstanceNorm2d(4),
        nn.Tanh(),
        Apply(lambda x: x.flatten(2).square().mean(2)),
        nn.Linear(4, CLASSES),
    )


def rms_norms() -> nn.Module:
    return nn.Sequential(
        nn.RMSNorm((4, 6)),
        nn.Linear(6, 5),
        nn.RMSNorm(5),
        nn.Tanh(),
        Apply(lambda x: x.mean(1)),
        nn.Linear(5, CLASSES),
    )


def normed_over_time(norm: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 4, 3, bias=False),
        norm,
        nn.Tanh(),
        nn.Conv1d(4, 4, 3),
        nn.Tanh(),
        Apply(lambda x: x.mean(2)),
        nn.Linear(4, CLASSES),
    )


class InTraining(nn.Module):
    """In evaluation, the outputs of a sample must not depend on the other samples."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x) if self.training else x


def batch_norm_of_vectors() -> nn.Module:
    # Two samples a domain: with the usual eps of 1e-5, both would be ±1 whatever they were.
    return nn.Sequential(
        nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8, eps=0.1), nn.Tanh(), nn.Linear(8, CLASSES)
    )


def batch_norm_of_volumes() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(2, 4, 2, bias=False),
        nn.BatchNorm3d(4, affine=False),
        nn.Tanh(),
        nn.Conv3d(4, 3, 2),
        nn.Flatten(),
    )


class WeightFromHook(nn.Module):
    """The weight is computed before the call and set as an attribute, as by the old weight norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 8)
        self.layer.direction = self.layer.weight
        self.layer.size = nn.Parameter(torch.ones(8, 1))
        del self.layer.weight
        self.layer.register_forward_pre_hook(self.set_weight)
        self.head = nn.Linear(8, CLASSES)

    @staticmethod
    def set_weight(layer: nn.Module, _: Any) -> None:
        norm = layer.direction.square().sum(1, keepdim=True).sqrt()
        layer.weight = layer.size * layer.direction / norm

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.layer(x)))


def parametrised_convolutions() -> nn.Module:
    return nn.Sequential(
        weight_norm(nn.Conv2d(2, 4, 3)),
        nn.Tanh(),
        spectral_norm(nn.Conv2d(4, 4, 3, groups=2)),
        nn.Tanh(),
        weight_norm(nn.ConvTranspose2d(4, 2, 2), dim=1),
        Apply(lambda x: x.square().flatten(2).mean(2)),
        nn.Linear(2, CLASSES),
    )


IMAGE = normal(2, 9, 9)
SMALL = normal(2, 7, 7)
VECTOR = normal(6)
SEQUENCE = normal(4, 6)
SIGNAL = normal(2, 9)

PROBLEMS = {
    "group norm": problem(lambda: cnn(lambda width: nn.GroupNorm(2, width)), IMAGE),
    "batch norm": problem(lambda: cnn(nn.BatchNorm2d), IMAGE),
    "batch norm in eval mode": problem(lambda: in_eval_mode(nn.BatchNorm2d), IMAGE),
    "batch norm of vectors": problem(batch_norm_of_vectors, VECTOR),
    "batch norm over time, with cumulative statistics": problem(
        lambda: normed_over_time(nn.BatchNorm1d(4, momentum=None)), SIGNAL
    ),
    "batch norm of volumes, without parameters": problem(batch_norm_of_volumes, normal(2, 3, 3, 3)),
    "batch norm without running statistics": problem(
        lambda: normed_over_time(InTraining(nn.BatchNorm1d(4, track_running_stats=False))), SIGNAL
    ),
    "instance norm over time": problem(
        lambda: normed_over_time(nn.InstanceNorm1d(4, affine=True)), SIGNAL
    ),
    "instance norm with running statistics": problem(
        lambda: cnn(lambda width: nn.InstanceNorm2d(width, affine=True, track_running_stats=True)),
        IMAGE,
    ),
    "instance norm in eval mode": problem(
        lambda: in_eval_mode(
            lambda width: nn.InstanceNorm2d(width, affine=True, track_running_stats=True)
        ),
        IMAGE,
    ),
    "layer norms": problem(layer_norms, SEQUENCE),
    "RMS norms": problem(rms_norms, SEQUENCE),
    "norms without parameters": problem(norms_without_parameters, SMALL),
    "spectral norm": problem(
        lambda: nn.Sequential(spectral_norm(nn.Linear(6, 8)), nn.Linear(8, CLASSES)), VECTOR
    ),
    "weight norm": problem(
        lambda: nn.Sequential(weight_norm(nn.Linear(6, 8)), nn.Linear(8, CLASSES)), VECTOR
    ),
    "weight and spectral norm of convolutions": problem(parametrised_convolutions, SMALL),
    "orthogonal weights": problem(
        lambda: nn.Sequential(
            orthogonal(nn.Linear(6, 6)), nn.Tanh(), orthogonal(nn.Linear(6, CLASSES))
        ),
        VECTOR,
    ),
    "weight set by a hook": problem(WeightFromHook, VECTOR),
}
