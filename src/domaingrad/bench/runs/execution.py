"""Many runs side by side in processes, with news of each and a clean end."""

from __future__ import annotations

import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event as Flag
from queue import Empty

from .fitting import Checkpoint
from .run import HeldOutRecord, RunConfig, RunRecord, train

NEWS_EVERY = 0.2
"""Seconds between two pieces of news of a run."""


@dataclass(frozen=True)
class Progress:
    """A run has come this far."""

    config: RunConfig
    step: int
    seconds: float
    """Time since the run began."""
    checkpoint: Checkpoint | None


@dataclass(frozen=True)
class Finished:
    """A run has ended well."""

    record: RunRecord
    held_out: HeldOutRecord


@dataclass(frozen=True)
class Failed:
    """A run has ended in an error; the others go on."""

    config: RunConfig
    cause: str
    """The traceback, or what became of the process."""


Event = Progress | Finished | Failed


OnEvent = Callable[[Event], None]


def execute(configs: Sequence[RunConfig], jobs: int, on_event: OnEvent) -> None:
    """Run everything, ``jobs`` at a time, and tell what happens.

    With one job the runs happen in this process, else in processes of their own, one thread each;
    the numbers are the same. Ctrl-C ends the runs under way within a step and starts no others.

    Raises:
        KeyboardInterrupt: after all processes have ended.
    """
    if jobs == 1:
        for config in configs:
            on_event(_outcome(config, on_event))
    else:
        _in_processes(configs, jobs, on_event)


def _outcome(config: RunConfig, on_progress: Callable[[Progress], None]) -> Finished | Failed:
    started = last = time.perf_counter()

    def report(step: int, checkpoint: Checkpoint | None) -> None:
        nonlocal last
        now = time.perf_counter()
        if now - last >= NEWS_EVERY:
            last = now
            on_progress(Progress(config, step, now - started, checkpoint))

    try:
        return Finished(*train(config, report))
    except Exception:  # noqa: BLE001 - whatever a run dies of, the others go on
        return Failed(config, traceback.format_exc())


_news: Queue[Progress]
_stop: Flag


def _begin_worker(news: Queue[Progress], stop: Flag) -> None:
    """Set up a worker: Ctrl-C is the main process's business, which then raises the flag."""
    global _news, _stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _news, _stop = news, stop


def _work(config: RunConfig) -> Finished | Failed:
    def tell(progress: Progress) -> None:
        if _stop.is_set():
            raise KeyboardInterrupt
        _news.put(progress)

    tell(Progress(config, 0, 0.0, None))
    return _outcome(config, tell)


def _in_processes(configs: Sequence[RunConfig], jobs: int, on_event: OnEvent) -> None:
    """Run in a pool of processes; a new pool takes over what a broken one has not begun."""
    begun: set[str] = set()

    def note(event: Event) -> None:
        if isinstance(event, Progress):
            begun.add(event.config.key)
        on_event(event)

    waiting = list(configs)
    while waiting:
        waiting = _in_one_pool(waiting, jobs, note, begun)


def _in_one_pool(
    configs: Sequence[RunConfig], jobs: int, on_event: OnEvent, begun: Set[str]
) -> list[RunConfig]:
    """Run in one pool of processes; if it breaks, give back the runs that had not begun."""
    context = multiprocessing.get_context("spawn")
    news: Queue[Progress] = context.Queue()
    stop = context.Event()
    lost: list[RunConfig] = []
    with ProcessPoolExecutor(
        jobs, mp_context=context, initializer=_begin_worker, initargs=(news, stop)
    ) as pool:
        try:
            with uninterrupted():  # the workers inherit it, so that only this process hears Ctrl-C
                open_runs = {pool.submit(_work, config): config for config in configs}
            while open_runs:
                _pass_on(news, on_event)
                for future in [future for future in open_runs if future.done()]:
                    config = open_runs.pop(future)
                    if isinstance(future.exception(), BrokenProcessPool):
                        lost.append(config)
                    else:
                        on_event(future.result())
        except BaseException:
            with uninterrupted():
                stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
            raise
    _pass_on(news, on_event)
    under_way = [config for config in lost if config.key in begun] or lost
    for config in under_way:
        on_event(Failed(config, "its process, or one beside it, died (killed, out of memory?)"))
    return [config for config in lost if config not in under_way]


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C waits outside."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _pass_on(news: Queue[Progress], on_event: OnEvent) -> None:
    """Pass on all news there is, waiting a moment for the first."""
    wait = 0.1
    with suppress(Empty):
        while True:
            on_event(news.get(timeout=wait))
            wait = 0.0
