"""The live view of runs: speed, time left, source validation, agreement. Never held-out scores."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from domaingrad.bench.runs import Checkpoint, Event, Failed, Finished, RunConfig
from domaingrad.bench.runs import Progress as RunProgress


class Pace:
    """How long the remaining steps will take, from the speed of each kind of run so far."""

    def __init__(self, configs: Sequence[RunConfig], workers: int) -> None:
        self._remaining = {config.key: config for config in configs}
        self._done: dict[str, int] = {}
        self._seconds: dict[tuple[str, str], tuple[float, int]] = {}
        self._workers = workers

    def note(self, config: RunConfig, step: int, seconds: float) -> None:
        """A run has done ``step`` steps in ``seconds``."""
        self._done[config.key] = step
        self._seconds[config.data, config.method] = (seconds, step)

    def end(self, config: RunConfig) -> None:
        """A run is over."""
        del self._remaining[config.key]

    @property
    def seconds_left(self) -> float | None:
        """Estimate; ``None`` before any run has moved."""
        if not self._seconds:
            return None
        total = sum(
            (config.steps - self._done.get(config.key, 0)) * self._per_step(config)
            for config in self._remaining.values()
        )
        return total / self._workers

    def _per_step(self, config: RunConfig) -> float:
        """Of the same data and method, else of the same data, else of all."""
        data, method = config.data, config.method
        kinds = (
            [pace for key, pace in self._seconds.items() if key == (data, method)],
            [pace for key, pace in self._seconds.items() if key[0] == data],
            list(self._seconds.values()),
        )
        known = next(kind for kind in kinds if kind)
        return sum(seconds for seconds, _ in known) / sum(steps for _, steps in known)


class LiveView:
    """Bars for the whole and for each run under way; plain lines where there is no terminal."""

    def __init__(self, console: Console, configs: Sequence[RunConfig], workers: int) -> None:
        self._console = console
        self._runs = len(configs)
        self._pace = Pace(configs, workers)
        self._started = time.perf_counter()
        self._steps: dict[str, int] = {}
        self._tasks: dict[str, TaskID] = {}
        self._ended = 0
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:3.0f} %"),
            TextColumn("{task.fields[news]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._whole = self._progress.add_task(
            "all runs", total=sum(config.steps for config in configs), news=""
        )

    def __enter__(self) -> LiveView:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def show(self, event: Event) -> None:
        """Take in what has happened."""
        match event:
            case RunProgress(config, step, seconds, checkpoint):
                news = "begins"
                if step > 0:
                    self._pace.note(config, step, seconds)
                    self._advance(config, step)
                    news = f"{step / seconds:.0f} steps/s{scores(checkpoint)}"
                self._progress.update(self._task(config), completed=step, news=news)
            case Finished(record, _):
                config = record.config
                self._pace.note(config, config.steps, record.seconds)
                self._end(config)
                self._line(
                    f"{_name(config)}{scores(record.checkpoints[-1])}, took {record.seconds:.1f} s"
                )
            case Failed(config, cause):
                self._end(config)
                self._console.print(
                    f"[red]Failed:[/] {escape(_name(config))}\n{escape(cause)}", highlight=False
                )
        self._progress.update(self._whole, news=self._overall())

    def _task(self, config: RunConfig) -> TaskID:
        if config.key not in self._tasks:
            self._tasks[config.key] = self._progress.add_task(
                escape(_name(config)), total=config.steps, news=""
            )
        return self._tasks[config.key]

    def _advance(self, config: RunConfig, step: int) -> None:
        self._steps[config.key] = step
        self._progress.update(self._whole, completed=sum(self._steps.values()))

    def _end(self, config: RunConfig) -> None:
        self._ended += 1
        self._pace.end(config)
        self._advance(config, config.steps)
        if config.key in self._tasks:
            self._progress.remove_task(self._tasks.pop(config.key))

    def _line(self, text: str) -> None:
        if not self._console.is_terminal:
            self._console.print(
                f"{self._ended}/{self._runs} {text}{self._left()}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )

    def _overall(self) -> str:
        speed = sum(self._steps.values()) / (time.perf_counter() - self._started)
        return f"{self._ended} of {self._runs} runs, {speed:.0f} steps/s{self._left()}"

    def _left(self) -> str:
        seconds = self._pace.seconds_left
        return "" if seconds is None else f", {duration(seconds)} left"


def _name(config: RunConfig) -> str:
    return f"{config.method}, {config.data}, trial {config.trial + 1}, held out {config.held_out}"


def scores(checkpoint: Checkpoint | None) -> str:
    """What is known of the sources, to go on with a line."""
    if checkpoint is None:
        return ""
    agreement = checkpoint.agreement
    return f", source validation {100 * checkpoint.val_score:.1f} %" + (
        "" if agreement is None else f", agreement {100 * agreement:.1f} %"
    )


def duration(seconds: float) -> str:
    """In words."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
