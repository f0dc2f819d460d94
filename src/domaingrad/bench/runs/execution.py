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
from contextlib import contextmanager
from ctypes import c_bool
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from domaingrad.bench.domains import (
    DATA_SETS,
    DataError,
    DataOptions,
    DomainData,
    News,
    load,
)
from domaingrad.bench.protocol import generator_of

from .directory import FullDiskError
from .fitting import Checkpoint
from .isolation import isolated
from .plan import PlannedRun, key_of
from .settings import TrainConfig, written
from .training import Listener, Status, drawing_names, train

CONTEXT = multiprocessing.get_context("spawn")
"""Fresh processes, which share nothing with this one."""
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
    ray: bool = False
    """Whether a Ray cluster carries them out, as many at a time as it has room for."""
    address: str | None = None
    """Of that cluster; without one, a cluster of this machine."""
    gpu_share: float = 0.0
    """Of a GPU of that cluster that a run takes."""

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
    if crew.ray:
        from .ray_launcher import execute_on_ray  # noqa: PLC0415 - it needs what is here

        execute_on_ray(runs, place, crew, on_event)
    elif crew.jobs == 1 and not crew.devices:
        for run in runs:
            on_event(outcome(run, place(run.key), crew.keep_models, on_event))
    else:
        _in_processes(runs, place, crew, on_event)


def outcome(
    run: PlannedRun, place: Path, keep_model: bool, on_progress: Callable[[Progress], None]
) -> Finished | Failed:
    """Carry out one run here, on one thread, and tell of it every now and then.

    Raises:
        FullDiskError: what else a run may die of is in what is returned.
    """
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
            if key_of(written(run.config, data), run.draw) != run.key:
                raise DataError(
                    "the data, the weights or the code have changed since the sweep was planned; "
                    "put them back, or begin another sweep."
                )
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


_news: Connection
_stop: Any


def _begin_worker(news: Connection, stop: Any, environment: Mapping[str, str]) -> None:
    """Set up a worker: Ctrl-C is the main process's business, which then raises the flag."""
    global _news, _stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(environment)
    _news, _stop = news, stop


def _work(run: PlannedRun, place: Path, keep_model: bool) -> Finished | Failed:
    def tell(progress: Progress) -> None:
        if _stop.value:
            raise KeyboardInterrupt
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            # The sweep was killed; who goes on with it must not wait for this run.
            os._exit(1)
        _news.send(progress)

    tell(Progress(run, 0, 0, 0.0, None))
    return outcome(run, place, keep_model, tell)


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


def _in_processes(
    runs: Sequence[PlannedRun], place: Callable[[str], Path], crew: Crew, on_event: OnEvent
) -> None:
    stop = CONTEXT.RawValue(c_bool, False)
    waiting = deque(runs)
    lost: Counter[str] = Counter()
    workers = [_Worker(stop, crew.environment(number)) for number in range(crew.jobs)]
    try:
        while waiting or any(worker.run for worker in workers):
            for worker in workers:
                if worker.run is None and waiting:
                    run = waiting.popleft()
                    worker.begin(run, place(run.key), crew.keep_models)
            _pass_on(workers, on_event)
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


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C waits outside."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
