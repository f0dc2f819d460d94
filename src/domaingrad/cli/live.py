"""The live view of runs: speed, time left, source validation, agreement. Never held-out scores."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from domaingrad.bench import (
    Apart,
    Checkpoint,
    Event,
    Failed,
    Finished,
    Lost,
    PlannedRun,
    in_words,
    plain,
)
from domaingrad.bench import Progress as RunProgress

from .shown import say

BARS = 16
"""Of runs under way, at most."""


class Pace:
    """How long the remaining steps will take, from the speed of each kind of run so far."""

    def __init__(self, runs: Sequence[PlannedRun], workers: int) -> None:
        self._remaining = {run.key: run for run in runs}
        self._done: dict[str, int] = {}
        self._seconds: dict[tuple[str, str], tuple[float, int]] = {}
        self._workers = workers

    def note(self, run: PlannedRun, step: int, here: int, seconds: float) -> None:
        """A run has come to ``step``, and has taken ``seconds`` for the last ``here`` steps."""
        self._done[run.key] = step
        if here:
            self._seconds[run.data, run.config.method] = (seconds, here)

    def end(self, run: PlannedRun) -> None:
        """A run is over."""
        del self._remaining[run.key]

    @property
    def seconds_left(self) -> float | None:
        """Estimate; ``None`` before any run has moved."""
        if not self._seconds:
            return None
        total = sum(
            (steps_of(run) - self._done.get(run.key, 0)) * self._per_step(run)
            for run in self._remaining.values()
        )
        return total / self._workers

    def _per_step(self, run: PlannedRun) -> float:
        """Of the same data and method, else of the same data, else of all."""
        data, method = run.data, run.config.method
        kinds = (
            [pace for key, pace in self._seconds.items() if key == (data, method)],
            [pace for key, pace in self._seconds.items() if key[0] == data],
            list(self._seconds.values()),
        )
        known = next(kind for kind in kinds if kind)
        return sum(seconds for seconds, _ in known) / sum(steps for _, steps in known)


class Bars:
    """Bars on a terminal, and nothing elsewhere; they are gone at the end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:3.0f} %"),
            TextColumn("{task.fields[news]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()


class LiveView(Bars):
    """Bars for the whole and for each run under way; plain lines where there is no terminal."""

    def __init__(self, console: Console, runs: Sequence[PlannedRun], workers: int) -> None:
        super().__init__(console)
        self._runs = len(runs)
        self._pace = Pace(runs, workers)
        self._failed = 0
        self._over: set[str] = set()
        self._one_kind = len({run.data for run in runs}) == 1
        self._best: tuple[float, str] | None = None
        self._begun: dict[str, int] = {}
        self._started = time.perf_counter()
        self._steps: dict[str, int] = {}
        self._tasks: dict[str, TaskID] = {}
        self._ended = 0
        self._whole = self._progress.add_task(
            "all runs", total=sum(steps_of(run) for run in runs), news=""
        )

    def show(self, event: Event) -> None:
        """Take in what has happened."""
        match event:
            case RunProgress(run, _, _, _, _) if run.key in self._over:
                pass
            case RunProgress(run, step, here, seconds, checkpoint):
                news = "begins"
                if here > 0:
                    self._pace.note(run, step, here, seconds)
                    self._begun.setdefault(run.key, step - here)
                    self._advance(run, step)
                    told = scores(checkpoint, _score(checkpoint, run))
                    news = f"{pace(here / seconds)}{told}"
                if (task := self._task(run)) is not None:
                    self._progress.update(task, completed=step, news=news)
            case Finished(run, seconds, checkpoint):
                self._pace.note(run, steps_of(run), steps_of(run), seconds)
                self._end(run)
                if self._best is None or checkpoint.val_score > self._best[0]:
                    self._best = checkpoint.val_score, run.title
                told = scores(checkpoint, _score(checkpoint, run))
                self._line(f"{run.title}{told}, took {seconds:.1f} s")
            case Failed(run, cause):
                self._failed += 1
                self._end(run)
                say(self._console, run.title, "Failed:", "red")
                for line in cause.splitlines():
                    say(self._console, line)
            case Apart(runs, cause):
                told = f"{len(runs)} runs that trained together go on one by one, since:"
                say(self._console, told, "Warning:", "yellow")
                for line in cause.splitlines():
                    say(self._console, line)
            case Lost(run, cause):
                told = f"{run.title} ({cause}); it goes on from its last checkpoint."
                say(self._console, told, "Lost its process:", "yellow")
        self._progress.update(self._whole, news=self._overall())

    def _task(self, run: PlannedRun) -> TaskID | None:
        """The bar of a run; some of those that train together have one."""
        if run.key not in self._tasks and len(self._tasks) < BARS:
            self._tasks[run.key] = self._progress.add_task(
                plain(run.title), total=steps_of(run), news=""
            )
        return self._tasks.get(run.key)

    def _advance(self, run: PlannedRun, step: int) -> None:
        self._steps[run.key] = step
        self._progress.update(self._whole, completed=sum(self._steps.values()))

    def _end(self, run: PlannedRun) -> None:
        self._ended += 1
        self._over.add(run.key)
        self._pace.end(run)
        self._advance(run, steps_of(run))
        if run.key in self._tasks:
            self._progress.remove_task(self._tasks.pop(run.key))

    def _line(self, text: str) -> None:
        if not self._console.is_terminal:
            told = f"{self._ended}/{self._runs} {text}{self._left()}{self._failures()}"
            say(self._console, told)

    def _overall(self) -> str:
        taken = sum(self._steps.values()) - sum(self._begun.values())
        speed = taken / (time.perf_counter() - self._started)
        best = ""
        if self._best is not None and self._one_kind:
            best = f"; best source validation {self._best[0]:.3f} ({plain(self._best[1])})"
        done = f"{self._ended} of {self._runs} runs{self._failures()}"
        return f"{done}, {pace(speed)}{self._left()}{best}"

    def _failures(self) -> str:
        return f", {self._failed} failed" if self._failed else ""

    def _left(self) -> str:
        seconds = self._pace.seconds_left
        return "" if seconds is None else f", {duration(seconds)} left"


def steps_of(run: PlannedRun) -> int:
    """How many it takes."""
    return run.config.steps or 0


def _score(checkpoint: Checkpoint | None, run: PlannedRun) -> str:
    return "" if checkpoint is None else in_words(checkpoint.val_score, run.task, run.config.metric)


def scores(checkpoint: Checkpoint | None, validation: str) -> str:
    """What is known of the sources, to go on with a line."""
    if checkpoint is None:
        return ""
    agreement = checkpoint.agreement
    told = "" if agreement is None else f", agreement {100 * agreement:.1f} %"
    return f", source validation {validation}{told}"


def pace(steps: float) -> str:
    """Of steps in a second, or seconds of a step where it is slow.

    >>> pace(12.3), pace(0.25), pace(1234.5)
    ('12.3 steps/s', '4.0 s/step', '1234 steps/s')
    """
    if 0 < steps < 1:
        return f"{1 / steps:.1f} s/step"
    return f"{steps:.{0 if steps >= 100 else 1}f} steps/s"


def duration(seconds: float) -> str:
    """In words."""
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {left:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def in_bytes(count: int) -> str:
    """In a unit that suits.

    >>> in_bytes(4096), in_bytes(3_200_000_000)
    ('4 kB', '3.2 GB')
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"
