"""Metrics: what is told of a model on samples, and what may select it; an open registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from .domains import DataError, Task
from .names import Registry

BINS = 15
"""Bins of confidence in the calibration error, as usual."""

Measure = Callable[[Tensor, Tensor], float | Tensor | None]
"""Of outputs (probabilities [n, classes], or numbers [n]) and labels [n]; ``None`` where these
samples do not define it."""


@dataclass(frozen=True)
class Metric:
    """One of them."""

    title: str
    """In tables."""
    of: Measure
    task: Task = "classification"
    percent: bool = True
    """Whether it is a share of one."""
    higher: bool = True
    """Whether more is better; no other may select a model."""


METRICS = Registry[Metric]("metric")
"""By name on the command line, in the order of tables."""


def scoring(task: Task, name: str | None) -> Metric:
    """The metric that models are scored by: that of the name, or accuracy or R²."""
    if name is None:
        name = "r2" if task == "regression" else "accuracy"
    return METRICS[name]


def in_words(score: float, task: Task, name: str | None = None) -> str:
    """A score with the metric's title, which accuracy does without.

    >>> in_words(0.25, "classification"), in_words(0.25, "regression")
    ('25.0 %', 'R² 0.250')
    """
    metric = scoring(task, name)
    value = f"{100 * score:.1f} %" if metric.percent else f"{score:.3f}"
    return value if metric.title == "accuracy" else f"{metric.title} {value}"


def told(task: Task, outputs: Tensor, labels: Tensor) -> dict[str, float]:
    """All metrics of a task that these samples define, by title.

    Raises:
        DataError: torchmetrics, which computes most of them, cannot be imported.
    """
    found = {m.title: m.of(outputs, labels) for m in METRICS.values() if m.task == task}
    return {title: float(value) for title, value in found.items() if value is not None}


def _accuracy(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs.argmax(1) == labels).double().mean()


def _balanced_accuracy(outputs: Tensor, labels: Tensor) -> Tensor:
    """The mean recall of the classes that occur."""
    right, true, _ = _counts(outputs, labels)
    return (right / true)[true > 0].mean()


def _macro_f1(outputs: Tensor, labels: Tensor) -> Tensor:
    """The mean over classes that occur or are predicted."""
    right, true, predicted = _counts(outputs, labels)
    return (2 * right / (true + predicted))[true + predicted > 0].mean()


def _counts(outputs: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """By class: samples told right, of the class, told to be of it; in float32."""
    told = outputs.argmax(1)
    each = (labels[told == labels], labels, told)
    return tuple(torch.bincount(c, minlength=outputs.shape[1]).float() for c in each)


def _auroc(outputs: Tensor, labels: Tensor) -> Tensor | None:
    """One class against the rest, the mean over classes that occur; of two classes the second's."""
    present = torch.unique(labels).tolist()
    if len(present) < 2:
        return None
    binary = _of_classes("binary_auroc")
    against = [1] if outputs.shape[1] == 2 else present
    return torch.stack([binary(outputs[:, c], (labels == c).long()) for c in against]).mean()


def _calibration_error(outputs: Tensor, labels: Tensor) -> Tensor:
    """Σ_b n_b/n · |accuracy − confidence| of 15 bins b of confidence (arXiv 1706.04599)."""
    error: Tensor = _of_classes("multiclass_calibration_error")(
        outputs, labels, outputs.shape[1], n_bins=BINS, norm="l1"
    )
    return error


def _r2(outputs: Tensor, labels: Tensor) -> Tensor | None:
    if torch.unique(labels).numel() < 2:
        return None
    value: Tensor = _torchmetrics("functional").r2_score(outputs, labels)
    return value


def _rmse(outputs: Tensor, labels: Tensor) -> Tensor:
    """In the unit of the labels, and so is the next."""
    return (outputs - labels).square().mean().sqrt()


def _mae(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs - labels).abs().mean()


def _right_sign(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs.sign() == labels).double().mean()


for _name, _metric in {
    "accuracy": Metric("accuracy", _accuracy),
    "balanced-accuracy": Metric("balanced accuracy", _balanced_accuracy),
    "macro-f1": Metric("macro F1", _macro_f1),
    "auroc": Metric("AUROC", _auroc),
    "ece": Metric("ECE", _calibration_error, higher=False),
    "r2": Metric("R²", _r2, "regression", percent=False),
    "rmse": Metric("RMSE", _rmse, "regression", percent=False, higher=False),
    "mae": Metric("MAE", _mae, "regression", percent=False, higher=False),
    "sign": Metric("accuracy", _right_sign, "signed-regression"),
}.items():
    METRICS.add(_name, _metric)


def _of_classes(name: str) -> Any:
    return getattr(_torchmetrics("functional.classification"), name)


def _torchmetrics(module: str) -> Any:
    """Imported when used, since it takes seconds, and imports torchvision where that is installed.

    Raises:
        DataError: it cannot be imported.
    """
    try:
        return import_module(f"torchmetrics.{module}")
    except (ImportError, RuntimeError) as error:
        raise DataError(
            f"torchmetrics cannot be imported ({error}); where torchvision is named, it is of "
            f"another build than PyTorch: install the one that belongs to it, or none."
        ) from error
