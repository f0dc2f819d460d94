"""Runs on a Ray cluster: placed by what they need, and gone on with elsewhere if a node is lost."""

from __future__ import annotations

import logging
import os
import socket
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domaingrad.bench.disk import FullDiskError
from domaingrad.bench.domains import DataError

from .attempts import Places, attempt, places_of
from .events import Apart, Ended, Failed, Finished, Lost, OnEvent, Progress, Undone
from .plan import Bundle

WAIT = 0.2
"""Seconds between two looks at the cluster."""
PATIENCE = 180.0
"""Seconds to wait for the lock of a node that is gone: file systems keep it for a lease's time."""
KNOCKING = 5.0
"""Seconds to wait for the head of a cluster to answer."""
AHEAD = 2
"""Bundles handed to the cluster for each that it can carry out at a time."""


@dataclass(frozen=True)
class RayCrew:
    """The nodes of a Ray cluster. A bundle takes one CPU, and a share of a GPU if there are any."""

    jobs: int
    """How many runs it can carry out at a time, as it is now."""
    most: int | None = None
    """How many at a time it may."""
    keep_models: bool = False
    """Whether the selected models stay."""
    gpu_share: float = 0.0
    """Of a GPU, that a run takes."""

    @classmethod
    def connected(
        cls, address: str | None, most: int | None, keep_models: bool, per_gpu: int | None
    ) -> RayCrew:
        """Of the cluster at ``address``; without one, a cluster of this machine is started.

        Args:
            address: of the cluster.
            most: how many runs at a time there may be.
            keep_models: whether the selected models stay.
            per_gpu: how many runs share a GPU; without, runs take none.

        Raises:
            DataError: Ray is not installed, or there is no cluster.
        """
        ray = _imported()
        if not ray.is_initialized():
            try:
                _knock(address)
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            except OSError as error:
                raise DataError(
                    f"there is no Ray cluster at {address} ({error}); give the address that "
                    f"`ray start` printed on the head node."
                ) from error
        share = 1 / per_gpu if per_gpu is not None and ray.cluster_resources().get("GPU") else 0.0
        room = _room(share)
        return cls(room if most is None else min(room, most), most, keep_models, share)


def on_ray(
    bundles: Sequence[Bundle], place: Callable[[str], Path], crew: RayCrew, on_event: OnEvent
) -> None:
    """Carry out everything on the Ray cluster that this process is connected to.

    The directory of the sweep and the data lie at the same places on every node, as on a shared
    file system.

    Raises:
        KeyboardInterrupt: after all runs were stopped; they go on from their last checkpoints.
        FullDiskError: likewise.
    """
    ray = _imported()
    work = ray.remote(num_cpus=1, num_gpus=crew.gpu_share, max_retries=0)(_work)
    # News are collected beside this process, so that no lost node takes them along.
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    board = ray.remote(num_cpus=0, scheduling_strategy=here, max_restarts=-1, max_task_retries=-1)(
        _Board
    ).remote()
    undone, under_way = Undone(bundles), dict[Any, Bundle]()
    try:
        while undone or under_way:
            while undone and len(under_way) < (crew.most or AHEAD * _room(crew.gpu_share)):
                bundle = undone.take()
                places = {key: at.absolute() for key, at in places_of(bundle, place).items()}
                task = work.remote(bundle, places, os.getcwd(), crew.keep_models, board)
                under_way[task] = bundle
            done, _ = ray.wait(list(under_way), timeout=WAIT)
            for news in ray.get(board.take.remote()):
                on_event(news)
            for reference in done:
                bundle = under_way.pop(reference)
                for ended in undone.after(bundle, _ended(reference, bundle)):
                    on_event(ended)
    finally:
        for reference in under_way:
            ray.cancel(reference, force=True)
        ray.shutdown()


def _imported() -> Any:
    try:
        import ray  # noqa: PLC0415 - an extra
        import ray.util.scheduling_strategies  # noqa: PLC0415
    except ImportError as error:
        raise DataError(
            "the launcher ray needs Ray; install domaingrad with the extra ray."
        ) from error
    return ray


def _knock(address: str | None) -> None:
    """See that somebody answers, since Ray would ask for many minutes."""
    host, _, port = (address or "").rpartition(":")
    if port.isdigit():
        with socket.create_connection((host.removeprefix("ray://"), int(port)), KNOCKING):
            pass


def _room(gpu_share: float) -> int:
    """How many runs fit on the cluster at a time, as it is now; one, where it is yet to grow."""
    found = _imported().cluster_resources()
    rooms = [found.get("CPU", 0), *([found.get("GPU", 0) / gpu_share] if gpu_share else [])]
    return max(1, int(min(rooms)))


class _Board:
    """The latest news of each run."""

    def __init__(self) -> None:
        self._latest: dict[str, Progress | Apart] = {}

    def tell(self, news: Progress | Apart) -> None:
        self._latest[news.run.key if isinstance(news, Progress) else news.cause] = news

    def take(self) -> list[Progress | Apart]:
        taken, self._latest = self._latest, {}
        return list(taken.values())


def _work(
    bundle: Bundle, places: Places, directory: str, keep_models: bool, board: Any
) -> list[Finished | Failed]:
    """On a node of the cluster."""
    first = next(iter(places.values()))
    if not (os.path.isdir(directory) and first.parent.is_dir()):
        found = f"{first.parent} or {directory} is not on the node {os.uname().nodename}"
        told = f"{found}; a sweep needs a file system that all nodes share."
        return [Failed(run, told) for run in bundle.runs]
    os.chdir(directory)  # names of files are relative to where the sweep was begun
    for run in bundle.runs:
        board.tell.remote(Progress(run, 0, 0, 0.0, None))
    return attempt(bundle, places, keep_models, board.tell.remote, PATIENCE)


def _ended(reference: Any, bundle: Bundle) -> Sequence[Ended]:
    ray = _imported()
    try:
        ended: list[Ended] = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, FullDiskError):
            raise error.cause from error
        told = "".join(traceback.format_exception(error))
        return [Failed(run, told) for run in bundle.runs]
    except ray.exceptions.RayError as error:
        told = next(iter(str(error).splitlines()), "")
        return [Lost(run, f"{type(error).__name__}: {told}") for run in bundle.runs]
    return ended
