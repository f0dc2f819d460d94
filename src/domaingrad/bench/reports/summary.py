"""From the records of a comparison to its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from domaingrad.bench.domains import DATA_SETS, DataSet
from domaingrad.bench.methods import ALL_METHODS, Method
from domaingrad.bench.protocol import training_domain_validation
from domaingrad.bench.runs import Comparison, Records, RunConfig

from .significance import Difference, paired_differences


@dataclass(frozen=True)
class Cell:
    """Mean over trials, in [0, 1], with its standard error (std with ddof 0, over √n)."""

    mean: float
    standard_error: float | None
    """``None`` for a single trial."""
    trials: int


@dataclass(frozen=True)
class MethodSummary:
    """One row of a table."""

    method: Method
    sources: Cell | None
    """Accuracy on the sources' ``val`` splits, of each trial the mean over held-out domains."""
    sources_by_domain: Mapping[str, Cell | None]
    """The same for the runs that hold out one domain."""
    held_out: Mapping[str, Cell | None]
    """Accuracy on each held-out domain; ``None`` where no trial has finished."""
    missing: Mapping[str, Sequence[str]]
    """Held-out domains with fewer trials than planned: the cause of each missing one."""

    @property
    def complete(self) -> bool:
        """Whether every held-out domain has a number."""
        return all(cell is not None for cell in self.held_out.values())

    @property
    def average(self) -> float | None:
        """Mean over the held-out domains."""
        means = [cell.mean for cell in self.held_out.values() if cell is not None]
        return sum(means) / len(means) if self.complete else None

    @property
    def worst(self) -> tuple[str, float] | None:
        """The held-out domain with the lowest mean."""
        if not self.complete:
            return None
        means = {name: cell.mean for name, cell in self.held_out.items() if cell is not None}
        name = min(means, key=lambda name: means[name])
        return name, means[name]


@dataclass(frozen=True)
class DataSummary:
    """All there is to say about one data set."""

    data_set: DataSet
    steps: int
    recipe: str
    methods: tuple[MethodSummary, ...]
    curves: pd.DataFrame
    """One row a run and checkpoint."""
    differences: tuple[Difference, ...]
    """Methods against their rivals, paired over trials."""
    numbers: pd.DataFrame
    """What the methods themselves told: one row a run, checkpoint and name of a number."""

    @property
    def best(self) -> dict[str, float | None]:
        """The highest mean on each held-out domain."""
        columns = {
            domain: [row.held_out[domain] for row in self.methods]
            for domain in self.data_set.held_out
        }
        return {
            domain: max((cell.mean for cell in cells if cell is not None), default=None)
            for domain, cells in columns.items()
        }

    def title(self, method: str) -> str:
        """The title of a method, by its name."""
        return next(row.method.title for row in self.methods if row.method.name == method)

    @property
    def chance(self) -> float:
        """Accuracy of guessing among equally frequent classes."""
        return 1 / self.data_set.classes


@dataclass(frozen=True)
class Summary:
    """A comparison in numbers."""

    comparison: Comparison
    data: tuple[DataSummary, ...]
    runs: pd.DataFrame
    """One row a finished run, at its selected checkpoint."""
    warnings: Mapping[str, int]
    """What runs warned of, and how many did."""


def summarise(comparison: Comparison, records: Records, causes: Mapping[str, str]) -> Summary:
    """Open the sealed scores and put the numbers together.

    The checkpoint of each run is selected by training-domain validation, from source scores alone.

    Args:
        comparison: the plan.
        records: what has finished.
        causes: why a run of the plan has not, by its key; "not run" where none is given.
    """
    finished, sealed = records.runs(), records.unseal()
    done = [config for config in comparison.runs if config.key in finished]
    chosen, curves, numbers, warned = [], [], [], []
    for config in done:
        record, scores = finished[config.key], sealed[config.key].scores
        points = [
            {
                **_place(config),
                "step": checkpoint.step,
                "source_validation": checkpoint.val_score,
                "held_out_accuracy": score.train,
                "agreement": checkpoint.agreement,
            }
            for checkpoint, score in zip(record.checkpoints, scores, strict=True)
        ]
        best = training_domain_validation([c.val_score for c in record.checkpoints])
        curves += points
        numbers += [
            {**_place(config), "step": checkpoint.step, "name": name, "value": value}
            for checkpoint in record.checkpoints
            for name, value in checkpoint.numbers.items()
        ]
        chosen.append(points[best] | {"steps": config.steps, "seconds": round(record.seconds, 2)})
        warned += [f"{config.data}, {config.method}: {text}" for text in record.warnings]
    place = ["data", "method", "held_out", "trial", "step"]
    columns = [*place, "source_validation", "held_out_accuracy", "agreement"]
    runs = pd.DataFrame(chosen, columns=[*columns, "steps", "seconds"])
    course = pd.DataFrame(curves, columns=columns)
    told = pd.DataFrame(numbers, columns=[*place, "name", "value"])
    data = []
    for name in comparison.data:
        configs = [config for config in comparison.runs if config.data == name]
        missing: dict[tuple[str, str], list[str]] = {}
        for config in configs:
            if config.key not in finished:
                cause = causes.get(config.key, "not run").strip().splitlines()[-1]
                missing.setdefault((config.method, config.held_out), []).append(cause)
        data.append(
            DataSummary(
                data_set=DATA_SETS[name],
                steps=configs[0].steps,
                recipe=configs[0].recipe,
                methods=tuple(
                    _method_summary(ALL_METHODS[method], DATA_SETS[name], runs, missing)
                    for method in comparison.methods
                ),
                curves=course[course["data"] == name],
                differences=tuple(
                    paired_differences(
                        runs[runs["data"] == name],
                        [ALL_METHODS[method] for method in comparison.methods],
                    )
                ),
                numbers=told[told["data"] == name],
            )
        )
    return Summary(comparison, tuple(data), runs, pd.Series(warned).value_counts().to_dict())


def _place(config: RunConfig) -> dict[str, Any]:
    return {
        "data": config.data,
        "method": config.method,
        "held_out": config.held_out,
        "trial": config.trial,
    }


def _method_summary(
    method: Method,
    data_set: DataSet,
    runs: pd.DataFrame,
    missing: Mapping[tuple[str, str], Sequence[str]],
) -> MethodSummary:
    own = runs[(runs["data"] == data_set.name) & (runs["method"] == method.name)]
    by_domain = {domain: own[own["held_out"] == domain] for domain in data_set.held_out}
    return MethodSummary(
        method=method,
        sources=_cell(own.groupby("trial")["source_validation"].mean()),
        sources_by_domain={
            domain: _cell(rows["source_validation"]) for domain, rows in by_domain.items()
        },
        held_out={domain: _cell(rows["held_out_accuracy"]) for domain, rows in by_domain.items()},
        missing={
            domain: missing[method.name, domain]
            for domain in data_set.held_out
            if (method.name, domain) in missing
        },
    )


def _cell(values: pd.Series) -> Cell | None:
    if values.empty:
        return None
    error = None if len(values) == 1 else float(values.std(ddof=0) / len(values) ** 0.5)
    return Cell(float(values.mean()), error, len(values))
