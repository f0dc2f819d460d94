"""Runs in processes of this machine, with news of each and a clean end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from ctypes import c_bool
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Thread
from typing import Any

from .events import Failed, Finished, Lost, OnEvent, Progress, Undone
from .interrupts import uninterrupted
from .one_run import attempt
from .plan import PlannedRun

CONTEXT = multiprocessing.get_context("spawn")
"""Fresh processes, which share nothing with this one."""


@dataclass(frozen=True)
class Crew:
    """Processes of this machine."""

    jobs: int
    """How many at a time; with one they happen in this process, else in processes of their own."""
    keep_models: bool = False
    """Whether the selected models stay."""
    devices: tuple[str, ...] = ()
    """GPUs, by number, which the processes share evenly; none for the CPU."""

    def environment(self, worker: int) -> Mapping[str, str]:
        """What sets a worker's device."""
        if not self.devices:
            return {}
        return {"CUDA_VISIBLE_DEVICES": self.devices[worker % len(self.devices)]}


_news: Connection
_stop: Any


def _begin_worker(news: Connection, stop: Any, environment: Mapping[str, str]) -> None:
    """Set up a worker: Ctrl-C is the main process's business, which then raises the flag."""
    global _news, _stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.update(environment)
    _news, _stop = news, stop
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Who goes on with a sweep that was killed must not wait for its runs, nor pay for its idle."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _work(run: PlannedRun, place: Path, keep_model: bool) -> Finished | Failed:
    def tell(progress: Progress) -> None:
        if _stop.value:
            raise KeyboardInterrupt
        _news.send(progress)

    tell(Progress(run, 0, 0, 0.0, None))
    return attempt(run, place, keep_model, tell)


class _Worker:
    """A process that carries out one run after the other; a new one where it has died.

    Nothing that it holds while it is killed is shared with other processes: the flag is a byte
    without a lock, and each process has a pipe of its own.
    """

    def __init__(self, stop: Any, environment: Mapping[str, str]) -> None:
        self._stop, self._environment = stop, environment
        self._pool: ProcessPoolExecutor | None = None
        self._future: Future[Finished | Failed] | None = None
        self.news: Connection | None = None
        self.run: PlannedRun | None = None

    def begin(self, run: PlannedRun, place: Path, keep_model: bool) -> None:
        """Start a run."""
        try:
            self._begin(run, place, keep_model)
        except BrokenProcessPool:  # its process has died since the run before
            self.close()
            self._begin(run, place, keep_model)

    def _begin(self, run: PlannedRun, place: Path, keep_model: bool) -> None:
        told = None
        if self._pool is None:
            self.news, told = CONTEXT.Pipe(duplex=False)
            self._pool = ProcessPoolExecutor(
                1,
                mp_context=CONTEXT,
                initializer=_begin_worker,
                initargs=(told, self._stop, self._environment),
            )
        with uninterrupted():  # the process inherits it, so that only this one hears Ctrl-C
            self.run, self._future = run, self._pool.submit(_work, run, place, keep_model)
        if told is not None:
            told.close()  # so that the pipe ends with the process

    def ended(self) -> Finished | Failed | Lost | None:
        """What became of the run, if it has ended."""
        if self.run is None or self._future is None or not self._future.done():
            return None
        run, future, self.run, self._future = self.run, self._future, None, None
        if isinstance(future.exception(), BrokenProcessPool):
            self.close()
            return Lost(run)
        return future.result()

    def close(self) -> None:
        """End the process, once its run has ended."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        if self.news is not None:
            self.news.close()
            self.news = None


def in_processes(
    runs: Sequence[PlannedRun], place: Callable[[str], Path], crew: Crew, on_event: OnEvent
) -> None:
    """Carry out everything in ``crew.jobs`` processes."""
    stop = CONTEXT.RawValue(c_bool, False)
    undone = Undone(runs)
    workers = [_Worker(stop, crew.environment(number)) for number in range(crew.jobs)]
    try:
        while undone or any(worker.run for worker in workers):
            for worker in workers:
                if worker.run is None and undone:
                    run = undone.take()
                    worker.begin(run, place(run.key), crew.keep_models)
            _pass_on(workers, on_event)
            for worker in workers:
                if (ended := worker.ended()) is not None:
                    on_event(undone.after(ended))
    finally:
        with uninterrupted():
            stop.value = True
            for worker in workers:
                worker.close()


def _pass_on(workers: Sequence[_Worker], on_event: OnEvent) -> None:
    """Pass on all news there is of runs under way, waiting a moment for the first."""
    pipes = {worker.news: worker for worker in workers if worker.news is not None}
    for pipe in wait([pipe for pipe in pipes if not pipe.closed], timeout=0.1):
        assert isinstance(pipe, Connection)
        try:
            while pipe.poll():
                progress = pipe.recv()
                if pipes[pipe].run is not None:
                    on_event(progress)
        except (EOFError, OSError):
            time.sleep(0.05)  # its process has died, which the pool will find out, too
