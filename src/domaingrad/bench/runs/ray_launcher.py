"""Runs on a Ray cluster: placed by what they need, and gone on with elsewhere if a node is lost."""

from __future__ import annotations

import logging
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from domaingrad.bench.domains import DataError

from .directory import RECORDS, FullDiskError, RunDirectory
from .execution import ATTEMPTS, Crew, Failed, Finished, Lost, OnEvent, Progress, outcome
from .plan import PlannedRun

WAIT = 0.2
"""Seconds between two looks at the cluster."""
AHEAD = 2
"""Runs handed to the cluster for each that it can carry out at a time."""


def execute_on_ray(
    runs: Sequence[PlannedRun], place: Callable[[str], Path], crew: Crew, on_event: OnEvent
) -> None:
    """Carry out everything on a Ray cluster, and tell what happens.

    The directory of the sweep and the data lie at the same place on every node. A run takes one
    CPU, and its share of a GPU where the crew has them.

    Args:
        runs: what is to be done.
        place: directory of a run, by its key.
        crew: the address of the cluster; without one, a cluster of this machine is started.
        on_event: who hears of it.

    Raises:
        DataError: Ray is not installed, or there is no cluster.
        KeyboardInterrupt: after all runs were stopped; they go on from their last checkpoints.
        FullDiskError: likewise.
    """
    ray = _connected(crew)
    news = _News(place)
    work = ray.remote(num_cpus=1, num_gpus=crew.gpu_share, max_retries=0)(_work)
    waiting, lost = deque(runs), Counter[str]()
    under_way: dict[Any, PlannedRun] = {}
    try:
        while waiting or under_way:
            while waiting and len(under_way) < AHEAD * max(1, _room(ray)):
                run = waiting.popleft()
                reference = work.remote(run, str(place(run.key)), crew.keep_models)
                under_way[reference] = run
            done, _ = ray.wait(list(under_way), timeout=WAIT)
            for run in under_way.values():
                news.pass_on(run, on_event)
            for reference in done:
                run = under_way.pop(reference)
                event = _ended(ray, reference, run)
                if isinstance(event, Lost):
                    lost[run.key] += 1
                    if lost[run.key] < ATTEMPTS:
                        waiting.appendleft(run)
                    else:
                        cause = f"its process or its node was lost {ATTEMPTS} times"
                        event = Failed(run, cause)
                on_event(event)
    finally:
        for reference in under_way:
            ray.cancel(reference, force=True)
        ray.shutdown()


def _connected(crew: Crew) -> Any:
    try:
        import ray  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise DataError(
            "--launcher ray needs Ray; install domaingrad with the extra ray."
        ) from error
    try:
        ray.init(address=crew.address, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise DataError(
            f"there is no Ray cluster at {crew.address} ({error}); give the --address that `ray "
            f"start --head` printed."
        ) from error
    return ray


class _News:
    """Reads how far runs have come from their records, which lie where this process sees them."""

    def __init__(self, place: Callable[[str], Path]) -> None:
        self._place = place
        self._first: dict[str, tuple[int, float]] = {}
        self._told: dict[str, int] = {}

    def pass_on(self, run: PlannedRun, on_event: OnEvent) -> None:
        """Tell of a checkpoint that is new."""
        if not (self._place(run.key) / RECORDS).exists():
            return
        known = RunDirectory(self._place(run.key)).checkpoints()
        if not known or known[-1].step == self._told.get(run.key):
            return
        now, latest = time.monotonic(), known[-1]
        step, began = self._first.setdefault(run.key, (latest.step, now))
        self._told[run.key] = latest.step
        on_event(Progress(run, latest.step, latest.step - step, max(now - began, WAIT), latest))


def _room(ray: Any) -> int:
    """How many runs the cluster can carry out at a time."""
    return int(ray.cluster_resources().get("CPU", 1))


def _work(run: PlannedRun, place: str, keep_model: bool) -> Finished | Failed:
    """On a worker of the cluster."""
    return outcome(run, Path(place), keep_model, lambda _: None)


def _ended(ray: Any, reference: Any, run: PlannedRun) -> Finished | Failed | Lost:
    try:
        ended: Finished | Failed = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, FullDiskError):
            raise error.cause from error
        return Failed(run, "".join(traceback.format_exception(error)))
    except ray.exceptions.RayError:
        return Lost(run)
    return ended
