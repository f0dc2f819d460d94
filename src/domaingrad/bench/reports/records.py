"""What the runs of a sweep have left, as tables."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from domaingrad.bench.methods import method_named
from domaingrad.bench.names import imported_when_used
from domaingrad.bench.protocol import (
    SELECTIONS,
    Candidate,
    Selection,
    training_domain_validation,
)
from domaingrad.bench.runs import (
    Checkpoint,
    HeldOutScores,
    Plan,
    PlannedRun,
    SweepDirectory,
)
from domaingrad.bench.runs.directory import Condition, Records
from domaingrad.bench.runs.settings import OPTIMISATION
from domaingrad.bench.runs.trainer import Recorded

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = imported_when_used("pandas")

EXCEPTION = re.compile(r"[\w.]*(Error|Exception|Interrupt|Warning)\b")
LONGEST_CAUSE = 200

CONDITIONS: Mapping[Condition, str] = {
    "not begun": "not run",
    "not finished": "not finished",
    "damaged": "its records are damaged",
}

PLACE = ["data", "method", "held_out", "trial", "draw"]
"""Columns that say which run with one domain held out."""
SELECTED = ["selection", *PLACE, "step", "source_validation", "held_out_score"]
CHECKPOINTS = [
    *PLACE, "step", "source_validation", "held_out_score", "held_out_validation", "other_domains",
    "agreement",
]  # fmt: skip
"""Columns of what was selected, and of every checkpoint."""

Sealed = Mapping[str, HeldOutScores]


@dataclass(frozen=True)
class Course:
    """A finished run with one domain held out."""

    run: PlannedRun
    checkpoints: tuple[Checkpoint, ...]
    sealed: tuple[HeldOutScores, ...]
    """By checkpoint."""
    others: tuple[float | None, ...]
    """By checkpoint: mean score on the other domains, each held out beside it by another run."""
    groups: Mapping[int, Recorded]
    """By step; empty where the data record nothing of groups."""

    @property
    def place(self) -> dict[str, Any]:
        """Which run it is."""
        config = self.run.config
        return dict(
            zip(
                PLACE,
                (self.run.data, config.method, config.hold_out, config.trial, self.run.draw),
                strict=True,
            )
        )

    def candidates(self) -> Iterable[tuple[Candidate, HeldOutScores]]:
        """What may be selected, and the scores that it would have."""
        for checkpoint, sealed, others in zip(
            self.checkpoints, self.sealed, self.others, strict=True
        ):
            yield (
                Candidate(
                    draw=self.run.draw,
                    step=checkpoint.step,
                    last=checkpoint is self.checkpoints[-1],
                    source_validation=checkpoint.val_score,
                    other_domains=others,
                    held_out_validation=sealed.oracle_validation,
                ),
                sealed,
            )


@dataclass(frozen=True)
class Collected:
    """All that has finished, and what has not."""

    courses: tuple[Course, ...]
    finished: int
    seconds: float
    missing: Mapping[tuple[str, str, str], tuple[int, tuple[str, ...]]]
    """By data, method and domains held out: how many runs were planned, why some are not there."""
    warnings: Mapping[str, int]
    """What runs warned of, and how many did."""

    def checkpoints(self) -> pd.DataFrame:
        """One row a run and checkpoint."""
        rows = [
            {
                **course.place,
                "step": checkpoint.step,
                "source_validation": checkpoint.val_score,
                "held_out_score": sealed.score,
                "held_out_validation": sealed.oracle_validation,
                "other_domains": others,
                "agreement": checkpoint.agreement,
            }
            for course in self.courses
            for checkpoint, sealed, others in zip(
                course.checkpoints, course.sealed, course.others, strict=True
            )
        ]
        return pd.DataFrame(rows, columns=CHECKPOINTS)

    def numbers(self) -> pd.DataFrame:
        """What methods told of themselves: one row a run, checkpoint and name of a number."""
        rows = [
            {**course.place, "step": checkpoint.step, "name": name, "value": value}
            for course in self.courses
            for checkpoint in course.checkpoints
            for name, value in checkpoint.metrics.items()
        ]
        return pd.DataFrame(rows, columns=[*PLACE, "step", "name", "value"])

    def draws(self) -> pd.DataFrame:
        """Hyper-parameters: one row a run and name, with the scores at its own best validation."""
        rows = []
        for course in self.courses:
            best = training_domain_validation([c.val_score for c in course.checkpoints])
            config = course.run.config
            # A reference takes no steps.
            shared = () if method_named(config.method).requires.whole else OPTIMISATION
            values = {
                name.replace("_", " "): getattr(config, name)
                for name in shared
                if isinstance(getattr(config, name), int | float)
            } | dict(config.hyperparameters)
            rows += [
                {
                    **course.place,
                    "name": name,
                    "value": value,
                    "source_validation": course.checkpoints[best].val_score,
                    "held_out_score": course.sealed[best].score,
                }
                for name, value in values.items()
            ]
        columns = [*PLACE, "name", "value", "source_validation", "held_out_score"]
        return pd.DataFrame(rows, columns=columns)

    def selected(self, selections: Iterable[str]) -> pd.DataFrame:
        """One row a selection method, data, method, held-out domain and trial."""
        groups: dict[tuple[Any, ...], list[Course]] = defaultdict(list)
        for course in self.courses:
            groups[tuple(course.place[name] for name in PLACE[:-1])].append(course)
        rows = []
        for name in selections:
            for place, courses in groups.items():
                row = _selected(SELECTIONS[name], courses)
                if row is not None:
                    rows.append({"selection": name, **dict(zip(PLACE, place, strict=False)), **row})
        return pd.DataFrame(rows, columns=SELECTED)

    def groups(self, selected: pd.DataFrame) -> dict[tuple[Any, ...], Recorded]:
        """What was recorded of groups at the checkpoints that were selected, by :data:`PLACE`.

        Args:
            selected: one row a data set, method, held-out domain and trial.
        """
        steps = {tuple(row[name] for name in PLACE): row["step"] for _, row in selected.iterrows()}
        found = {tuple(course.place.values()): course.groups for course in self.courses}
        return {place: found[place][step] for place, step in steps.items() if step in found[place]}


def _selected(selection: Selection, courses: Iterable[Course]) -> dict[str, Any] | None:
    """The candidate that counts among the draws of one trial."""
    scores = {
        (candidate.draw, candidate.step): (candidate, sealed)
        for course in courses
        for candidate, sealed in course.candidates()
    }
    chosen = selection.select(candidate for candidate, _ in scores.values())
    if chosen is None:
        return None
    return {
        "draw": chosen.draw,
        "step": chosen.step,
        "source_validation": chosen.source_validation,
        "held_out_score": scores[chosen.draw, chosen.step][1].score,
    }


def collect(directory: SweepDirectory, plan: Plan, causes: Mapping[str, str]) -> Collected:
    """Open the sealed scores of everything that has finished.

    Args:
        directory: of the sweep.
        plan: its plan.
        causes: why runs have not finished, by key, where it is not written down.
    """
    singles: list[tuple[PlannedRun, Records]] = []
    pairs: dict[tuple[Any, ...], Mapping[int, Sealed]] = {}
    planned: dict[tuple[str, str, str], int] = defaultdict(int)
    missing: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    warned: dict[str, int] = defaultdict(int)
    seconds, finished = 0.0, 0
    for run in plan.runs:
        config = run.config
        cell = (run.data, config.method, " and ".join(config.held_out))
        planned[cell] += 1
        records = directory.records(run.key)
        if records.condition != "finished":
            told = causes.get(run.key) or directory.failure(run.key)
            missing[cell].append(CONDITIONS[records.condition] if told is None else cause_of(told))
            continue
        finished += 1
        seconds += records.ended["seconds"]
        for text in records.ended["warnings"]:
            warned[f"{run.data}, {config.method}: {text}"] += 1
        if config.also_hold_out is None:
            singles.append((run, records))
        else:
            pairs[_kind(run, frozenset(config.held_out))] = records.sealed
    beside = {each.name: each.others for each in plan.data}
    courses = []
    for run, records in singles:
        one = run.config.hold_out
        assert one is not None
        pairs_of_run = {
            other: pairs.get(_kind(run, frozenset((one, other))), {})
            for other in beside[run.data][one]
        }
        courses.append(
            Course(
                run,
                records.checkpoints,
                tuple(records.sealed[each.step][one] for each in records.checkpoints),
                tuple(_others(pairs_of_run, each.step) for each in records.checkpoints),
                records.groups,
            )
        )
    return Collected(
        courses=tuple(courses),
        finished=finished,
        seconds=seconds,
        missing={cell: (planned[cell], tuple(found)) for cell, found in missing.items()},
        warnings=dict(sorted(warned.items(), key=lambda item: -item[1])),
    )


def cause_of(text: str) -> str:
    r"""The line of a traceback that says what happened.

    >>> cause_of("Traceback ...\nRuntimeError: no\nroom\n")
    'RuntimeError: no'
    """
    lines = [line for line in text.splitlines() if line.strip()]
    named = [line for line in lines if EXCEPTION.match(line)]
    return (named or lines or ["of unknown cause"])[-1][:LONGEST_CAUSE]


def _kind(run: PlannedRun, held_out: frozenset[str]) -> tuple[Any, ...]:
    return run.data, run.config.method, run.config.trial, run.draw, held_out


def _others(pairs: Mapping[str, Mapping[int, Sealed]], step: int) -> float | None:
    """Mean score on the domains held out beside the one in question; ``None`` if one is missing."""
    scores = [sealed[step][other].score for other, sealed in pairs.items() if step in sealed]
    return sum(scores) / len(scores) if pairs and len(scores) == len(pairs) else None
