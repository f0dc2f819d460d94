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

from .attempts import Places, attempt, places_of
from .events import Apart, Ended, Failed, Finished, Lost, OnEvent, Progress, Undone
from .interrupts import uninterrupted
from .plan import Bundle

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


def _work(bundle: Bundle, places: Places, keep_models: bool) -> list[Finished | Failed]:
    def tell(news: Progress | Apart) -> None:
        if _stop.value:
            raise KeyboardInterrupt
        _news.send(news)

    for run in bundle.runs:
        tell(Progress(run, 0, 0, 0.0, None))
    return attempt(bundle, places, keep_models, tell)


class _Worker:
    """A process that carries out one bundle after the other; a new one where it has died.

    Nothing that it holds while it is killed is shared with other processes: the flag is a byte
    without a lock, and each process has a pipe of its own.
    """

    def __init__(self, stop: Any, environment: Mapping[str, str]) -> None:
        self._stop, self._environment = stop, environment
        self._pool: ProcessPoolExecutor | None = None
        self._future: Future[list[Finished | Failed]] | None = None
        self.news: Connection | None = None
        self.bundle: Bundle | None = None

    def begin(self, bundle: Bundle, places: Places, keep_models: bool) -> None:
        """Start runs."""
        try:
            self._begin(bundle, places, keep_models)
        except BrokenProcessPool:  # its process has died since the runs before
            self.close()
            self._begin(bundle, places, keep_models)

    def _begin(self, bundle: Bundle, places: Places, keep_models: bool) -> None:
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
            self.bundle = bundle
            self._future = self._pool.submit(_work, bundle, places, keep_models)
        if told is not None:
            told.close()  # so that the pipe ends with the process

    def ended(self) -> tuple[Bundle, Sequence[Ended]] | None:
        """What became of the runs, if they have ended."""
        if self.bundle is None or self._future is None or not self._future.done():
            return None
        bundle, future, self.bundle, self._future = self.bundle, self._future, None, None
        if isinstance(future.exception(), BrokenProcessPool):
            self.close()
            return bundle, [Lost(run) for run in bundle.runs]
        return bundle, future.result()

    def close(self) -> None:
        """End the process, once its run has ended."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        if self.news is not None:
            self.news.close()
            self.news = None


def in_processes(
    bundles: Sequence[Bundle], place: Callable[[str], Path], crew: Crew, on_event: OnEvent
) -> None:
    """Carry out everything in ``crew.jobs`` processes."""
    stop = CONTEXT.RawValue(c_bool, False)
    undone = Undone(bundles)
    workers = [_Worker(stop, crew.environment(number)) for number in range(crew.jobs)]
    try:
        while undone or any(worker.bundle for worker in workers):
            for worker in workers:
                if worker.bundle is None and undone:
                    bundle = undone.take()
                    worker.begin(bundle, places_of(bundle, place), crew.keep_models)
            _pass_on(workers, on_event)
            for worker in workers:
                if (found := worker.ended()) is not None:
                    for ended in undone.after(*found):
                        on_event(ended)
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
                news = pipe.recv()
                if pipes[pipe].bundle:
                    on_event(news)
        except (EOFError, OSError):
            time.sleep(0.05)  # its process has died, which the pool will find out, too
