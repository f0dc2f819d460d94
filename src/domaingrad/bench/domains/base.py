"""What a data set is that a program draws, and how outputs are judged."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .data import AsStored, DomainData, Domains, Task
from .recipes import Recipe


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

    def draw(self, generator: torch.Generator) -> DomainData:
        """The data of one trial."""
        domains = self.make(generator)
        inputs, _ = next(iter(domains.values())).tensors
        return DomainData(
            name=self.name,
            domains=domains,
            preparation=AsStored(tuple(inputs.shape[1:])),
            recipe=self.recipe,
            task=self.task,
            classes=tuple(str(label) for label in range(self.classes))
            if self.task == "classification"
            else (),
            never_sources=tuple(name for name in domains if name not in self.sources),
            fingerprint=self.source,
            built_in=True,
        )


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


def score(task: Task, outputs: Tensor, labels: Tensor) -> float:
    """What a model is judged by, higher is better.

    Accuracy; for numbers R² = 1 − Σ (y − f)² / Σ (y − ȳ)², with ȳ the mean of these labels, so that
    0 is the score of one well-chosen constant (−∞ where an output is not finite; where all labels
    are equal, 0 unless all are met).

    >>> outputs, labels = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([1.0, 2.0, 6.0])
    >>> round(score("regression", outputs, labels), 3)
    0.357
    """
    if task != "regression":
        return correct(task, outputs, labels).double().mean().item()
    if not outputs.isfinite().all():
        return -math.inf
    labels = labels.double()
    error = (labels - outputs.squeeze(1)).square().sum().item()
    spread = (labels - labels.mean()).square().sum().item()
    return 1 - error / spread if spread > 0 else float(error == 0)
