"""Many runs side by side in processes, with news of each and a clean end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event as Flag
from pathlib import Path
from queue import Empty

from domaingrad.bench.domains import DATA_SETS, DataOptions, DomainData, News, load
from domaingrad.bench.protocol import generator_of

from .directory import FullDiskError
from .fitting import Checkpoint
from .isolation import isolated
from .plan import PlannedRun
from .settings import TrainConfig
from .training import Listener, Status, drawing_names, train

NEWS_EVERY = 0.2
"""Seconds between two pieces of news of a run."""
PATIENCE = 30.0
"""Seconds to wait for a process that is left over from a sweep that was killed."""
ATTEMPTS = 3
"""How often a run may lose its process."""


@dataclass(frozen=True)
class Progress:
    """A run has come this far."""

    run: PlannedRun
    step: int
    here: int
    """Steps taken by this process."""
    seconds: float
    """Time they took."""
    checkpoint: Checkpoint | None


@dataclass(frozen=True)
class Finished:
    """A run has ended well."""

    run: PlannedRun
    seconds: float
    checkpoint: Checkpoint
    """The selected one."""


@dataclass(frozen=True)
class Failed:
    """A run has ended in an error; the others go on."""

    run: PlannedRun
    cause: str
    """The traceback, or what became of the process."""


@dataclass(frozen=True)
class Lost:
    """A run has lost its process, and will go on from its last checkpoint in another one."""

    run: PlannedRun


Event = Progress | Finished | Failed | Lost


OnEvent = Callable[[Event], None]


@dataclass(frozen=True)
class Crew:
    """Where runs are carried out."""

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


def execute(
    runs: Sequence[PlannedRun], place: Callable[[str], Path], crew: Crew, on_event: OnEvent
) -> None:
    """Carry out everything, and tell what happens.

    One thread a run, so that the numbers are the same however many run at a time. A run whose
    process dies goes on in another one, at most :data:`ATTEMPTS` times. Ctrl-C ends the runs under
    way within a step and starts no others.

    Args:
        runs: what is to be done.
        place: directory of a run, by its key.
        crew: where it is done.
        on_event: who hears of it.

    Raises:
        KeyboardInterrupt: after all processes have ended.
        FullDiskError: likewise.
    """
    if crew.jobs == 1 and not crew.devices:
        for run in runs:
            on_event(_outcome(run, place(run.key), crew.keep_models, on_event))
    else:
        _in_processes(runs, place, crew, on_event)


def _outcome(
    run: PlannedRun, place: Path, keep_model: bool, on_progress: Callable[[Progress], None]
) -> Finished | Failed:
    last = time.perf_counter()

    def report(status: Status) -> None:
        nonlocal last
        now = time.perf_counter()
        if now - last >= NEWS_EVERY:
            last = now
            on_progress(Progress(run, status.step, status.here, status.seconds, status.checkpoint))

    try:
        with isolated(0, threads=1):
            listener = Listener(step=report)
            data = _data_of(run.config)
            result = train(run.config, place, listener, data=data, patience=PATIENCE)
    except FullDiskError:
        raise
    except Exception:  # noqa: BLE001 - whatever a run dies of, the others go on
        return Failed(run, traceback.format_exc())
    if not keep_model:
        result.directory.forget_model()
    return Finished(run, result.seconds, result.selected)


def _data_of(config: TrainConfig) -> DomainData:
    """The data of a run; those on disk are read once, since no trial draws them anew."""
    names = drawing_names(config) if config.data in DATA_SETS else ()
    return _data(config.data, config.data_options, names)


@lru_cache(maxsize=2)
def _data(data: str, options: DataOptions, names: tuple[object, ...]) -> DomainData:
    return load(data, options, News(), generator_of(*names))


_news: Queue[Progress]
_stop: Flag


def _begin_worker(news: Queue[Progress], stop: Flag, environment: Mapping[str, str]) -> None:
    """Set up a worker: Ctrl-C is the main process's business, which then raises the flag."""
    global _news, _stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(environment)
    _news, _stop = news, stop


def _work(run: PlannedRun, place: Path, keep_model: bool) -> Finished | Failed:
    def tell(progress: Progress) -> None:
        if _stop.is_set():
            raise KeyboardInterrupt
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            # The sweep was killed; who goes on with it must not wait for this run.
            os._exit(1)
        _news.put(progress)

    tell(Progress(run, 0, 0, 0.0, None))
    return _outcome(run, place, keep_model, tell)


class _Worker:
    """A process that carries out one run after the other; a new one where it has died."""

    def __init__(self, news: Queue[Progress], stop: Flag, environment: Mapping[str, str]) -> None:
        self._setting = (news, stop, environment)
        self._pool: ProcessPoolExecutor | None = None
        self.run: PlannedRun | None = None
        self.future: Future[Finished | Failed] | None = None

    def begin(self, run: PlannedRun, place: Path, keep_model: bool) -> None:
        """Start a run."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                1,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_begin_worker,
                initargs=self._setting,
            )
        with uninterrupted():  # the process inherits it, so that only this one hears Ctrl-C
            self.run, self.future = run, self._pool.submit(_work, run, place, keep_model)

    def ended(self) -> Finished | Failed | Lost | None:
        """What became of the run, if it has ended."""
        if self.run is None or self.future is None or not self.future.done():
            return None
        run, future, self.run, self.future = self.run, self.future, None, None
        if isinstance(future.exception(), BrokenProcessPool):
            self.close()
            return Lost(run)
        return future.result()

    def close(self) -> None:
        """End the process, once its run has ended."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


def _in_processes(
    runs: Sequence[PlannedRun], place: Callable[[str], Path], crew: Crew, on_event: OnEvent
) -> None:
    context = multiprocessing.get_context("spawn")
    news: Queue[Progress] = context.Queue()
    stop = context.Event()
    waiting = deque(runs)
    lost: Counter[str] = Counter()
    workers = [_Worker(news, stop, crew.environment(number)) for number in range(crew.jobs)]
    try:
        while waiting or any(worker.run for worker in workers):
            for worker in workers:
                if worker.run is None and waiting:
                    run = waiting.popleft()
                    worker.begin(run, place(run.key), crew.keep_models)
            _pass_on(news, on_event)
            for worker in workers:
                event: Event | None = worker.ended()
                if isinstance(event, Lost):
                    lost[event.run.key] += 1
                    if lost[event.run.key] < ATTEMPTS:
                        waiting.appendleft(event.run)
                    else:
                        cause = f"its process died {ATTEMPTS} times (killed, out of memory?)"
                        event = Failed(event.run, cause)
                if event is not None:
                    on_event(event)
    finally:
        with uninterrupted():
            stop.set()
            for worker in workers:
                worker.close()
    _pass_on(news, on_event)


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
