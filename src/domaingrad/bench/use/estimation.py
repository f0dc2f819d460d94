"""What accuracy to expect on samples without labels, and how far that has held here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from domaingrad.bench.domains import DataError, DomainData, News
from domaingrad.bench.domains.data import Reading
from domaingrad.bench.runs.directory import RunDirectory
from domaingrad.bench.runs.trained import TrainedModel
from domaingrad.bench.runs.training import estimates_of

from .prediction import paths_of
from .run_parts import directory_of, model_of_run, parts_of_run


@dataclass(frozen=True)
class Estimates:
    """Of the accuracy on some samples."""

    atc: float
    """Average thresholded confidence."""
    doc: float
    """The accuracy on the sources, less by as much as the mean confidence is."""


@dataclass(frozen=True)
class Estimation:
    """What is known of new samples without labels, and how good such estimates were."""

    samples: int
    estimates: Estimates
    source_accuracy: float
    """On the sources' validation splits."""
    checks: Mapping[str, tuple[float, Estimates]]
    """By domain held out: its accuracy, and what a model that had not seen it would have said."""

    def errors(self) -> dict[str, tuple[float, float]]:
        """By method, how far the checks are off: in the mean and at most."""
        found = {}
        for name in ("atc", "doc") if self.checks else ():
            off = [abs(getattr(told, name) - truth) for truth, told in self.checks.values()]
            found[name] = (sum(off) / len(off), max(off))
        return found


def thresholded_confidence(source: Tensor, right: Tensor, target: Tensor) -> float:
    """ATC (Garg et al., arXiv 2201.04234, §4), with the largest probability as confidence.

    The share of the target at or above the confidence under which as many source samples lie as
    are told wrong.

    Args:
        source: confidences of validation samples [n].
        right: whether each is told right [n].
        target: confidences of samples without labels [m].

    >>> thresholded_confidence(
    ...     torch.tensor([0.9, 0.8, 0.7, 0.6]),
    ...     torch.tensor([True, True, True, False]),
    ...     torch.tensor([0.95, 0.65]),
    ... )
    0.5
    """
    wrong = int((~right).sum())
    if wrong == len(right):
        return 0.0
    return (target >= source.sort().values[wrong]).double().mean().item()


def estimate(run: str | Path, files: Sequence[str | Path], news: News | None = None) -> Estimation:
    """Estimate the accuracy on new files without labels, by two methods.

    ATC, and the difference of confidences (Guillory et al., arXiv 2107.03315). Both are checked on
    each domain that a training of this run has held out: all of them where it holds out none.
    Neither sees a shift that leaves the model's outputs as they are.

    Args:
        run: its directory; of a model of classes.
        files: as for :func:`~domaingrad.bench.predict`.
        news: who hears of what is read.

    Raises:
        RunDirectoryError: there is no run, or no model yet.
        DataError: files that cannot be read, a model of numbers, data that have changed.
    """
    directory, news = directory_of(run), news or News()
    trained = model_of_run(directory)
    if trained.task != "classification":
        raise DataError(
            f"estimates without labels go by the confidence in classes; the model of "
            f"{directory.path} predicts numbers. Evaluate it on labelled samples."
        )
    _, stored = trained.transform.read(paths_of(files), Reading(news=news))
    own, source, right = _validation(directory, trained, news)
    checks = {}
    for place in estimates_of(directory) or [directory]:
        name = place.config()["hold_out"]
        if name is not None:
            model = model_of_run(place)
            _, known, told = _validation(place, model, news, own)
            inputs, labels = own.domains[name].tensors
            outputs = model.outputs(inputs)
            truth = (outputs.argmax(1) == labels).double().mean().item()
            checks[name] = (truth, _estimates(known, told, outputs.amax(1)))
    found = trained.outputs(stored).amax(1)
    accuracy = right.double().mean().item()
    return Estimation(len(found), _estimates(source, right, found), accuracy, checks)


def _estimates(source: Tensor, right: Tensor, target: Tensor) -> Estimates:
    less = (source.double().mean() - target.double().mean()).item()
    doc = right.double().mean().item() - less
    return Estimates(thresholded_confidence(source, right, target), min(1.0, max(0.0, doc)))


def _validation(
    directory: RunDirectory, trained: TrainedModel, news: News, own: DomainData | None = None
) -> tuple[DomainData, Tensor, Tensor]:
    """The data; and of the sources' validation samples confidence, and whether they are right."""
    own, parts = parts_of_run(directory, trained, news, own)
    confidence, right = [], []
    for split in parts.sources.values():
        outputs = trained.outputs(split.data.tensors[0], split.val)
        confidence.append(outputs.amax(1))
        right.append(outputs.argmax(1) == split.data.tensors[1][split.val])
    return own, torch.cat(confidence), torch.cat(right)
