"""What a data set is: named domains of the same task, and how it is usually trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

Task = Literal["classification", "signed-regression"]
"""Classes with cross-entropy; or labels −1 and 1 with half the squared error, told by the sign."""


Domains = Mapping[str, TensorDataset]
"""Samples by domain: inputs of shape [n, *shape] and labels of shape [n]."""


@dataclass(frozen=True)
class Recipe:
    """How a data set is trained: the same for every method, so that runs can be compared."""

    model: Callable[[tuple[int, ...], int], nn.Module]
    steps: int
    batch: int
    """Samples per domain and step."""
    learning_rate: float
    weight_decay: float
    chosen: str
    """How these settings came about, for the reader of a report to judge."""
    optimiser: Literal["adam", "sgd"] = "adam"
    schedule: Literal["one-cycle", "exponential"] = "one-cycle"
    """One cycle up to the rate and down (Smith & Topin), or ×.9995 a step from the rate on."""
    checkpoints: int = 10
    """How often, evenly through training, a model is evaluated and may be selected."""

    def described(self) -> str:
        """Everything the recipe says, in one line."""
        return (
            f"{_described(self.model)}, {self.optimiser} with learning rate {self.learning_rate:g} "
            f"({self.schedule}) and weight decay {self.weight_decay:g}, "
            f"{self.batch} samples per domain and step"
        )


@dataclass(frozen=True)
class DataSet:
    """An entry of the list of data sets."""

    name: str
    summary: str
    source: str
    make: Callable[[torch.Generator], Domains]
    """Draws the data of one trial."""
    sources: tuple[str, ...]
    """Names of the domains in training, but for the one held out."""
    held_out: tuple[str, ...]
    """Names of the domains that are held out in turn."""
    recipe: Recipe
    task: Task = "classification"
    classes: int = 2

    def build_model(self, domains: Domains) -> nn.Module:
        """The recipe's model for the shape of the inputs."""
        inputs, _ = next(iter(domains.values())).tensors
        outputs = self.classes if self.task == "classification" else 1
        return self.recipe.model(tuple(inputs.shape[1:]), outputs)


def losses(task: Task, outputs: Tensor, labels: Tensor) -> Tensor:
    """One loss per sample, shape [n]."""
    if task == "classification":
        return F.cross_entropy(outputs, labels, reduction="none")
    return 0.5 * (outputs.squeeze(1) - labels).square()


def correct(task: Task, outputs: Tensor, labels: Tensor) -> Tensor:
    """Whether each sample's label is told right, shape [n]; outputs that are not finite are not."""
    finite = outputs.isfinite().all(1)
    if task == "classification":
        return finite & (outputs.argmax(1) == labels)
    return finite & (outputs.squeeze(1).sign() == labels)


def _described(model: Callable[..., nn.Module]) -> str:
    if isinstance(model, partial):
        options = ", ".join(f"{name} {value}" for name, value in model.keywords.items())
        return f"{model.func.__name__} ({options})"
    return model.__name__
