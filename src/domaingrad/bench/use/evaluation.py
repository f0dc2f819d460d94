"""How well a trained model does, domain by domain and class by class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from domaingrad.bench.domains import HALF, DataError, DomainData, News, Task, correct, load
from domaingrad.bench.metrics import beside_score, scoring, told
from domaingrad.bench.runs.directory import RunDirectory
from domaingrad.bench.runs.settings import DECIDED_BY, TrainConfig, config_from
from domaingrad.bench.runs.trained import TrainedModel
from domaingrad.bench.runs.trainer import HeldOutScores, Splits
from domaingrad.bench.runs.training import drawing, estimate_in
from domaingrad.bench.schema import without_none
from domaingrad.bench.sections import SECTIONS, EvaluationSection

from .run_parts import directory_of, model_of_run, parts_of_run

Role = Literal["source, validation", "held out", "new data"]
"""What the samples of a domain were to the model."""


@dataclass(frozen=True)
class GroupEvaluation:
    """Samples that belong together."""

    group: str
    samples: int
    score: float
    """Share that is told right; of numbers minus the mean absolute error."""


@dataclass(frozen=True)
class DomainEvaluation:
    """One domain."""

    domain: str
    role: Role
    samples: int
    metrics: Mapping[str, float]
    """By name; one that these samples do not define is left out."""
    pairs: Tensor | None
    """Of pairs of classes that occur, [m, 3]: the true one, the predicted one, how many samples;
    ``None`` where labels are numbers."""
    classes: int = 0
    recorded: Mapping[str, Any] | None = None
    """What the data's recorder keeps of groups."""
    groups: tuple[GroupEvaluation, ...] = ()
    """The worst first, where they are asked for."""
    interval: tuple[float, float] | None = None
    """95 % of accuracy or R², where the samples allow one."""

    @property
    def confusion(self) -> Tensor | None:
        """Counts [true class, predicted class]; ``None`` where labels are numbers."""
        if self.pairs is None:
            return None
        true, predicted, count = self.pairs.unbind(1)
        counts = torch.zeros(self.classes, self.classes, dtype=torch.long)
        counts[true, predicted] = count
        return counts

    @property
    def by_class(self) -> Tensor:
        """Samples of each true class, and how many of them are told right, [classes, 2]."""
        assert self.pairs is not None
        true, predicted, count = self.pairs.unbind(1)
        found = torch.zeros(2, self.classes, dtype=torch.long)
        found[0].index_add_(0, true, count)
        found[1].index_add_(0, true, count * (true == predicted))
        return found.T


@dataclass(frozen=True)
class Evaluation:
    """A model on several domains."""

    trained: TrainedModel
    domains: tuple[DomainEvaluation, ...]
    sections: Mapping[str, EvaluationSection] = field(default_factory=dict)
    """What only such data have, by name."""
    estimate: Mapping[str, HeldOutScores] = field(default_factory=dict)
    """Of a run that holds out none: each domain while a training of its own held it out."""
    pooled: Mapping[str, float] = field(default_factory=dict)
    """Metrics of numbers on the validation samples of all sources together."""
    notes: tuple[str, ...] = ()
    """What the reader has to know, as that the model was trained on these data."""


def evaluate(
    run: str | Path | RunDirectory,
    data: str | None = None,
    news: News | None = None,
    by_group: bool = False,
) -> Evaluation:
    """Evaluate the model that a run selected.

    On the sources the validation splits count, on the held-out domain all samples, of other data
    all samples of every domain.

    Args:
        run: its directory; it has come to its first checkpoint.
        data: other data than the run's own, in the same words as for training.
        news: who hears of decoding.
        by_group: whether each group is told, too.

    Raises:
        RunDirectoryError: there is no run, or no model yet.
        DataError: the data are not those of the run, or other data do not fit the model, or there
            are no groups.
    """
    directory = directory_of(run)
    trained = model_of_run(directory)
    news = news or News()
    if data is not None:
        config = config_from(directory.config())
        new, notes = _on_new_data(trained, config, data, news, by_group)
        decided_by = directory.config().get(DECIDED_BY) or {}
        if same_file(decided_by.get("data", ""), notes.pop()):
            trained_on = ", ".join(trained.sources)
            notes.append(
                f"{data} is what this model was trained on (80 % of {trained_on}), so scores there "
                f"are no estimate for new data; see evaluate without data"
            )
        sections = {}
        if any(found.recorded for found in new):
            own, parts = parts_of_run(directory, trained, news)
            sections = _sections(new, _on_sources(trained, own, parts, by_group))
        return Evaluation(trained, tuple(new), sections, notes=tuple(notes))
    return evaluation_of(trained, directory, news, by_group)


def evaluation_of(
    trained: TrainedModel, directory: RunDirectory, news: News, by_group: bool = False
) -> Evaluation:
    """Evaluate a model on the data of a run."""
    own, parts = parts_of_run(directory, trained, news)
    sources = _on_sources(trained, own, parts, by_group)
    found = [*sources]
    for name, split in parts.held_out.items():
        samples = split.data.tensors
        every = torch.arange(len(samples[1]))
        found.append(_on(trained, name, "held out", samples, every, own, by_group))
    sections = _sections(found[len(sources) :], sources)
    pooled = _pooled(sources, parts) if trained.task == "regression" else {}
    return Evaluation(trained, tuple(found), sections, estimate_in(directory), pooled)


def _pooled(sources: Sequence[DomainEvaluation], parts: Splits) -> dict[str, float]:
    """From those of each source: squared and absolute errors add up."""
    labels = torch.cat([s.data.tensors[1][s.val] for s in parts.sources.values()]).double()
    count, shares = len(labels), [(each.samples, each.metrics) for each in sources]
    squared = sum(n * m["RMSE"] ** 2 for n, m in shares) / count
    mae = sum(n * m["MAE"] for n, m in shares) / count
    spread = labels.var(correction=0).item()
    found = {"RMSE": squared**0.5, "MAE": mae}
    return ({"R²": 1 - squared / spread} if spread else {}) | found


def same_file(one: str, other: str) -> bool:
    """Whether two fingerprints are of the same file, whatever was made of it."""
    return one[:HALF] == other[:HALF]


def _on_sources(
    trained: TrainedModel, own: DomainData, parts: Splits, by_group: bool
) -> list[DomainEvaluation]:
    return [
        _on(trained, name, "source, validation", split.data.tensors, split.val, own, by_group)
        for name, split in parts.sources.items()
    ]


def _sections(
    targets: Sequence[DomainEvaluation], sources: Sequence[DomainEvaluation]
) -> dict[str, EvaluationSection]:
    """Of domains that are no source, with what the sources' validation tells."""
    both = [without_none({e.domain: e.recorded for e in each}) for each in (targets, sources)]
    found = {name: section.of_evaluation(*both) for name, section in SECTIONS.items()}
    return without_none(found)


def _on_new_data(
    trained: TrainedModel, config: TrainConfig, data: str, news: News, by_group: bool
) -> tuple[list[DomainEvaluation], list[str]]:
    """Of each domain; and notes, the last of which is the fingerprint of the data."""
    if trained.task == "signed-regression":
        raise DataError(f"a model of {trained.data} is evaluated on these data alone.")
    options = {**config.data_options, "least": 1}
    if not by_group:  # other data need not have them
        options.pop("group", None)
    if more := trained.transform.options_for_more():
        options |= {"task": trained.task, **more}
    new = load(data, options, news, drawing(replace(config, data=data)))
    if new.task != trained.task:
        raise DataError(f"the model was trained for {trained.task}; {data} is {new.task}.")
    if unknown := [name for name in new.classes if name not in trained.classes]:
        raise DataError(
            f"the model knows the classes {', '.join(trained.classes)}; {data} has others: "
            f"{', '.join(unknown)}."
        )
    places = torch.tensor([trained.classes.index(name) for name in new.classes])
    found = []
    for name, domain in new.domains.items():
        stored, labels = domain.tensors
        stored = trained.transform.adopted(new.preparation, stored)
        known = (stored, places[labels] if len(places) else labels)
        every = torch.arange(len(labels))
        found.append(_on(trained, name, "new data", known, every, new, by_group))
    return found, [*new.notes, new.fingerprint]


def _on(
    trained: TrainedModel,
    domain: str,
    role: Role,
    samples: tuple[Tensor, ...],
    rows: Tensor,
    data: DomainData,
    by_group: bool,
) -> DomainEvaluation:
    stored, labels = samples
    outputs, truth = trained.outputs(stored, rows), labels[rows]
    metrics = told(trained.task, outputs, truth)
    pairs = _pairs(outputs, truth) if trained.task == "classification" else None
    recorded = None
    if data.recorder is not None and domain in data.groups:
        recorded = data.recorder(data.groups[domain], trained.classes, labels, rows, outputs)
    groups = _by_group(trained, domain, rows, outputs, truth, data) if by_group else ()
    classes = len(trained.classes)
    beside = beside_score(
        trained.task, None, [outputs], [truth], lambda *parts: _first(trained.task, *parts)
    )
    interval = (beside["low"], beside["high"]) if "low" in beside else None
    return DomainEvaluation(
        domain, role, len(truth), metrics, pairs, classes, recorded, groups, interval
    )


def _first(task: Task, outputs: Sequence[Tensor], labels: Sequence[Tensor]) -> float:
    """Accuracy or R²; NaN where the samples do not define it."""
    found = scoring(task, None).of(torch.cat(list(outputs)), torch.cat(list(labels)))
    return math.nan if found is None else float(found)


def _by_group(
    trained: TrainedModel,
    domain: str,
    rows: Tensor,
    outputs: Tensor,
    truth: Tensor,
    data: DomainData,
) -> tuple[GroupEvaluation, ...]:
    if domain not in data.groups:
        raise DataError(
            f"{data.name} says of no groups in {domain}; train with the setting group that names "
            f"them."
        )
    groups = data.groups[domain]
    if trained.task == "regression":
        each = -(outputs - truth).abs()
    else:
        each = correct(trained.task, _columns(outputs), truth).double()
    number = groups.of_sample[rows]
    samples = torch.bincount(number, minlength=len(groups.names)).tolist()
    totals = torch.bincount(number, each.double(), minlength=len(groups.names)).tolist()
    found = [
        GroupEvaluation(name, count, total / count)
        for name, count, total in zip(groups.names, samples, totals, strict=True)
        if count
    ]
    return tuple(sorted(found, key=lambda each: each.score))


def _columns(outputs: Tensor) -> Tensor:
    return outputs if outputs.dim() == 2 else outputs.unsqueeze(1)


def _pairs(probabilities: Tensor, labels: Tensor) -> Tensor:
    both = torch.stack([labels, probabilities.argmax(1)], 1)
    found, counts = torch.unique(both, dim=0, return_counts=True)
    return torch.cat([found, counts.unsqueeze(1)], 1)
