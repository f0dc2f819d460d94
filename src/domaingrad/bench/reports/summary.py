"""From the records of a sweep to its numbers."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from domaingrad.bench.methods import Method, method_named
from domaingrad.bench.names import imported_when_used
from domaingrad.bench.protocol import SELECTIONS, Selection
from domaingrad.bench.runs import Plan, PlannedData, SweepDirectory
from domaingrad.bench.schema import without_none
from domaingrad.bench.sections import SECTIONS, SweepSection

from .records import PLACE, collect
from .significance import Difference, paired_differences

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = imported_when_used("pandas")


@dataclass(frozen=True)
class Cell:
    """Mean over trials with its standard error (std with ddof 0, over √n); accuracies in [0, 1]."""

    mean: float
    standard_error: float | None
    """``None`` for a single trial."""
    trials: int


@dataclass(frozen=True)
class MethodSummary:
    """One row of a table."""

    method: Method
    sources: Cell | None
    """Score on the sources' ``val`` splits, of each trial the mean over held-out domains."""
    sources_by_domain: Mapping[str, Cell | None]
    """The same for the runs that hold out one domain."""
    held_out: Mapping[str, Cell | None]
    """Score on each held-out domain; ``None`` where no trial has finished."""
    average: Cell | None
    """Mean over the held-out domains, over the trials that have them all."""
    partial: frozenset[str]
    """Held-out domains of which runs are missing."""

    @property
    def worst(self) -> tuple[str, float] | None:
        """The held-out domain with the lowest mean; ``None`` where one has no number."""
        means = {name: cell.mean for name, cell in self.held_out.items() if cell is not None}
        if len(means) < len(self.held_out):
            return None
        name = min(means, key=lambda name: means[name])
        return name, means[name]


@dataclass(frozen=True)
class DataSummary:
    """All there is to say about one data set."""

    data: PlannedData
    tables: Mapping[str, tuple[MethodSummary, ...]]
    """By selection method."""
    differences: Mapping[str, tuple[Difference, ...]]
    """Methods against their baselines, paired over trials; by selection method."""
    curves: pd.DataFrame
    """One row a checkpoint of the runs that the first selection method selects."""
    numbers: pd.DataFrame
    """What the methods of these runs told: one row a run, checkpoint and name of a number."""
    draws: pd.DataFrame
    """One row a run and hyper-parameter."""
    sections: Mapping[str, SweepSection]
    """What only such data have, by name; of the runs that the first selection method selects."""

    @property
    def headline(self) -> Selection:
        """The selection method whose table comes first."""
        return SELECTIONS[next(iter(self.tables))]

    @property
    def methods(self) -> tuple[MethodSummary, ...]:
        """The rows of the first table."""
        return self.tables[self.headline.name]

    def best(self, selection: str) -> dict[str, float | None]:
        """The highest mean on each held-out domain."""
        return {
            domain: max(
                (
                    cell.mean
                    for row in self.tables[selection]
                    if (cell := row.held_out[domain]) is not None
                ),
                default=None,
            )
            for domain in self.data.held_out
        }

    def title(self, method: str) -> str:
        """The title of a method, by its name."""
        return next(row.method.info.title for row in self.methods if row.method.info.name == method)

    @property
    def chance(self) -> float | None:
        """Score of guessing among equally frequent classes."""
        return None if self.data.task == "regression" else 1 / self.data.classes


@dataclass(frozen=True)
class Summary:
    """A sweep in numbers."""

    plan: Plan
    data: tuple[DataSummary, ...]
    selected: pd.DataFrame
    """One row a selection method, data, method, held-out domain and trial."""
    checkpoints: pd.DataFrame
    """One row a checkpoint of every finished run with one domain held out."""
    finished: int
    seconds: float
    """Of training in all."""
    missing: Mapping[tuple[str, str, str], tuple[int, tuple[str, ...]]]
    """By data, method and domains held out: how many runs were planned, why some are not there."""
    warnings: Mapping[str, int]
    """What runs warned of, and how many did."""


def summarise(directory: SweepDirectory, causes: Mapping[str, str] | None = None) -> Summary:
    """Open the sealed scores and put the numbers together.

    Args:
        directory: of a sweep, finished or not.
        causes: why runs have not finished, by key, where it is not written down.

    Raises:
        RunDirectoryError: there is no plan, or records that cannot be read.
    """
    plan = directory.plan()
    collected = collect(directory, plan, causes or {})
    selected = collected.selected(plan.request.selections)
    checkpoints = collected.checkpoints()
    numbers, draws = collected.numbers(), collected.draws()
    chosen = selected[selected["selection"] == plan.request.selections[0]]
    first, recorded = chosen[PLACE], collected.groups(chosen)
    methods = [method_named(name) for name in plan.request.methods]
    summaries = []
    for data in plan.data:
        own = selected[selected["data"] == data.name]
        missing = {(m, held_out) for d, m, held_out in collected.missing if d == data.name}
        tables, differences = {}, {}
        for name in plan.request.selections:
            rows = own[own["selection"] == name]
            tables[name] = tuple(_method_summary(method, data, rows, missing) for method in methods)
            differences[name] = tuple(paired_differences(rows, methods, data.held_out))
        summaries.append(
            DataSummary(
                data=data,
                tables=tables,
                differences=differences,
                curves=_of(checkpoints, data).merge(first, on=PLACE),
                numbers=_of(numbers, data).merge(first, on=PLACE),
                draws=_of(draws, data),
                sections=without_none(
                    {
                        name: section.of_sweep(recorded, data.name, methods, data.held_out)
                        for name, section in SECTIONS.items()
                    }
                ),
            )
        )
    return Summary(
        plan=plan,
        data=tuple(summaries),
        selected=selected,
        checkpoints=checkpoints,
        finished=collected.finished,
        seconds=collected.seconds,
        missing=collected.missing,
        warnings=collected.warnings,
    )


def _of(rows: pd.DataFrame, data: PlannedData) -> pd.DataFrame:
    return rows[rows["data"] == data.name]


def _method_summary(
    method: Method, data: PlannedData, rows: pd.DataFrame, missing: Collection[tuple[str, str]]
) -> MethodSummary:
    own = rows[rows["method"] == method.info.name]
    by_domain = {domain: own[own["held_out"] == domain] for domain in data.held_out}
    trials = own.groupby("trial")
    whole = trials["held_out_score"].mean()[trials["held_out"].nunique() == len(data.held_out)]
    return MethodSummary(
        method=method,
        sources=_cell(trials["source_validation"].mean()),
        sources_by_domain={
            domain: _cell(found["source_validation"]) for domain, found in by_domain.items()
        },
        held_out={domain: _cell(found["held_out_score"]) for domain, found in by_domain.items()},
        average=_cell(whole),
        partial=frozenset(name for name in data.held_out if (method.info.name, name) in missing),
    )


def _cell(values: pd.Series) -> Cell | None:
    if values.empty:
        return None
    if not np.isfinite(values).all():
        return Cell(-math.inf, None, len(values))
    error = None if len(values) == 1 else float(values.std(ddof=0) / len(values) ** 0.5)
    return Cell(float(values.mean()), error, len(values))
