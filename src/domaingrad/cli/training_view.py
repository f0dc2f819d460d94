"""The live view of one training: speed, time left, source validation, agreement."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import TaskID

from domaingrad.bench import Checkpoint, Listener, News, Status, TrainConfig, plain

from .live import Bars, duration, pace, scores
from .shown import say

TOLD_EVERY = 15.0
"""Seconds between two lines on work that takes long, where there is no terminal."""
AGREEMENT = (
    "Agreement: the share of gradient components on whose sign all source domains agree, on fresh "
    "batches; for signs at random it would be 2^(1−K) of K domains."
)


class TrainingView(Bars):
    """A bar where there is a terminal; else a line for each checkpoint."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._task: TaskID | None = None
        self._work, self._counted, self._told = "", "", 0.0
        self._began = (0.0, 0)
        self._shown: Checkpoint | None = None
        self._explained = False

    @property
    def listener(self) -> Listener:
        """What a training tells its news to."""
        return Listener(News(self._say, self._advance), self._begin, self._step)

    def _say(self, text: str) -> None:
        say(self._console, text)

    def _advance(self, work: str, done: int, total: int) -> None:
        now = time.monotonic()
        if work != self._counted:
            self._counted, self._began, self._told = work, (now, done), now
        since, before = self._began
        speed = (done - before) / (now - since) if now > since else 0.0
        left = f", {speed:,.0f}/s, {duration((total - done) / speed)} left" if speed else ""
        news = f"{done:,} of {total:,}{left}"
        self._update(work, done, total, news)
        if not self._console.is_terminal and now - self._told > TOLD_EVERY:
            self._told = now
            self._say(f"{work}: {news}")

    def _begin(self, config: TrainConfig, step: int) -> None:
        held_out = "no domain" if config.hold_out is None else config.hold_out
        self._work = f"{config.method}, held out: {held_out}"
        self._shown = None
        if step:
            self._say(f"{self._work}: goes on from step {step}")

    def _step(self, status: Status) -> None:
        speed = status.here / status.seconds
        left = duration((status.steps - status.step) / speed)
        news = f"{pace(speed)}, {left} left{scores(status.checkpoint, status.score)}"
        if status.checkpoint and status.checkpoint.agreement is not None and not self._explained:
            self._explained = True
            self._say(AGREEMENT)
        self._update(self._work, status.step, status.steps, news)
        if status.checkpoint is not self._shown:
            self._shown = status.checkpoint
            if not self._console.is_terminal:
                self._say(f"{self._work}: step {status.step} of {status.steps}, {news}")

    def _update(self, work: str, done: int, total: int, news: str) -> None:
        if self._task is not None and self._progress.tasks[0].description != plain(work):
            self._progress.remove_task(self._task)
            self._task = None
        if self._task is None:
            self._task = self._progress.add_task(plain(work), total=total, news="")
        self._progress.update(self._task, completed=done, total=total, news=news)
