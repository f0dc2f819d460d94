"""Metrics: what is told of a model on samples, and what may select it; an open registry."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .domains import Task
from .names import Registry

BINS = 15
"""Bins of confidence in the calibration error, as usual."""
Z, T19, FOLDS = 1.959964, 2.093024, 20
"""Of a 95 % interval: quantiles of the normal and of Student's distribution; parts left out."""

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


def in_words(
    score: float,
    task: Task,
    name: str | None = None,
    beside: Mapping[str, float] | None = None,
) -> str:
    """A score with the metric's title, which accuracy does without, and what is known beside it.

    Args:
        score: the score.
        task: of what.
        name: the metric.
        beside: as :func:`beside_score` has it.

    >>> in_words(0.25, "classification"), in_words(-122.4, "regression")
    ('25.0 %', 'R² -122.400')
    >>> in_words(1.0, "classification", beside={"samples": 4, "low": 0.51, "high": 1.0})
    '100.0 % (95 %: 51.0 to 100.0; 4 samples)'
    """
    metric, beside = scoring(task, name), beside or {}

    def shown(value: float) -> str:
        return f"{100 * value:.1f}" if metric.percent else f"{value:.3f}"

    value = f"{shown(score)} %" if metric.percent else shown(score)
    more = [f"95 %: {shown(beside['low'])} to {shown(beside['high'])}"] if "low" in beside else []
    more += [f"{title} {beside[title]:.4g}" for title in ("RMSE", "MAE") if title in beside]
    more += [f"{beside['samples']:,.0f} samples"] if "samples" in beside else []
    said = value if metric.title == "accuracy" else f"{metric.title} {value}"
    return f"{said} ({'; '.join(more)})" if more else said


def beside_score(
    task: Task,
    name: str | None,
    outputs: Sequence[Tensor],
    labels: Sequence[Tensor],
    score: Callable[[Sequence[Tensor], Sequence[Tensor]], float],
) -> dict[str, float]:
    """What is known beside a score: its samples and its 95 % interval.

    Of accuracy the interval is Wilson's (1927); of others it is by the jackknife that leaves out a
    twentieth of the samples at a time (Tukey 1958), with Student's t of 19 degrees, where there
    are 40 samples or more. Both take the samples for independent.

    Args:
        task: of what.
        name: the metric.
        outputs: of each domain: probabilities [n, classes] or numbers [n].
        labels: of each domain, [n].
        score: of such outputs and labels, over all domains.
    """
    count, value = sum(map(len, labels)), score(outputs, labels)
    found = {"samples": float(count)}
    if scoring(task, name).title == "accuracy":
        middle = (value + Z**2 / (2 * count)) / (1 + Z**2 / count)
        half = (
            Z / (1 + Z**2 / count) * (value * (1 - value) / count + (Z / (2 * count)) ** 2) ** 0.5
        )
        found |= {"low": max(0.0, middle - half), "high": min(1.0, middle + half)}
    elif count >= 2 * FOLDS and math.isfinite(value):
        less = [
            score(
                *(
                    [part[torch.arange(len(part)) % FOLDS != fold] for part in parts]
                    for parts in (outputs, labels)
                )
            )
            for fold in range(FOLDS)
        ]
        spread = torch.tensor(less, dtype=torch.float64)
        half = T19 * ((FOLDS - 1) * spread.var(correction=0).item()) ** 0.5
        if math.isfinite(half):
            found |= {"low": value - half, "high": value + half}
    return found


def errors_of(outputs: Tensor, labels: Tensor) -> dict[str, float]:
    """RMSE and MAE of numbers [n], in their unit, by title."""
    return {m.title: float(m.of(outputs, labels) or 0) for m in (METRICS["rmse"], METRICS["mae"])}


def told(task: Task, outputs: Tensor, labels: Tensor) -> dict[str, float]:
    """All metrics of a task that these samples define, by title."""
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
    right, true, told = _counts(outputs, labels)
    return (2 * right / (true + told))[true + told > 0].mean()


def _counts(outputs: Tensor, labels: Tensor) -> list[Tensor]:
    """By class how often it is told right, is true, and is told."""
    classes, told = outputs.shape[1], outputs.argmax(1)
    each = (labels[told == labels], labels, told)
    return [torch.bincount(of, minlength=classes).double() for of in each]


def _auroc(outputs: Tensor, labels: Tensor) -> Tensor | None:
    """One class against the rest, the mean over classes that occur; of two classes the second's."""
    present = torch.unique(labels).tolist()
    if len(present) < 2:
        return None
    against = [1] if outputs.shape[1] == 2 else present
    return torch.stack([_area(outputs[:, c], labels == c) for c in against]).mean()


def _area(scores: Tensor, positive: Tensor) -> Tensor:
    """Of pairs of a positive and a negative the share in order, of equal ones half."""
    _, place, count = torch.unique(scores, return_inverse=True, return_counts=True)
    rank = (count.cumsum(0).double() - (count - 1) / 2)[place[positive]]
    n = len(rank)
    area: Tensor = (rank.sum() - n * (n + 1) / 2) / (n * (len(scores) - n))
    return area


def _calibration_error(outputs: Tensor, labels: Tensor) -> Tensor:
    """Σ_b n_b/n · |accuracy − confidence| of 15 bins b of confidence (arXiv 1706.04599)."""
    confidence, told = outputs.double().max(1)
    edges = torch.linspace(0, 1, BINS + 1, dtype=torch.float64)[1:-1]
    off = torch.zeros(BINS, dtype=torch.float64)
    off.index_add_(0, torch.bucketize(confidence, edges), (told == labels).double() - confidence)
    return off.abs().sum() / len(labels)


def _r2(outputs: Tensor, labels: Tensor) -> Tensor | None:
    """1 − Σ (y − f)² / Σ (y − ȳ)²."""
    labels = labels.double()
    spread = (labels - labels.mean()).square().sum()
    return None if spread == 0 else 1 - (labels - outputs).square().sum() / spread


def _rmse(outputs: Tensor, labels: Tensor) -> Tensor:
    """In the unit of the labels, and so is the next."""
    return (outputs - labels).double().square().mean().sqrt()


def _mae(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs - labels).double().abs().mean()


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
