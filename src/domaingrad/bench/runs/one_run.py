"""One run of a sweep, carried out here."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from domaingrad.bench.disk import FullDiskError
from domaingrad.bench.domains import DataError, DomainData, News, is_drawn
from domaingrad.bench.names import import_plugins

from .events import Failed, Finished, Progress
from .isolation import isolated
from .plan import PlannedRun, key_of
from .resumable import Listener, Status
from .settings import TrainConfig, written
from .training import data_of, train

NEWS_EVERY = 0.2
"""Seconds between two pieces of news of a run."""
PATIENCE = 30.0
"""Seconds to wait for a process that is left over from a sweep that was killed."""


def attempt(
    run: PlannedRun,
    place: Path,
    keep_model: bool,
    on_progress: Callable[[Progress], None],
    patience: float = PATIENCE,
) -> Finished | Failed:
    """Carry out one run here, on one thread, and tell of it every now and then.

    Args:
        run: the run.
        place: its directory.
        keep_model: whether the selected model stays.
        on_progress: who hears of it.
        patience: seconds to wait for another process that is at work there.

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
            import_plugins(run.config.plugins)
            data = _data_of(run.config)
            if key_of(written(run.config, data), run.draw) != run.key:
                raise DataError(
                    "the data, the weights or the code have changed since the sweep was planned; "
                    "put them back, or begin another sweep."
                )
            result = train(
                run.config, place, listener, data=data, patience=patience, keep_model=keep_model
            )
    except FullDiskError:
        raise
    except Exception:  # noqa: BLE001 - whatever a run dies of, the others go on
        return Failed(run, traceback.format_exc())
    return Finished(run, result.seconds, result.selected)


def _data_of(config: TrainConfig) -> DomainData:
    """The data of a run; read once, where no trial draws them anew."""
    names = ["data", "data_options"]
    names += ["seed", "trial"] if is_drawn(config.data) else []
    names += ["frozen_backbone", "backbone", "weights", "accelerator"] * config.frozen_backbone
    told = {"hold_out": None} | {name: getattr(config, name) for name in names}
    return _data(json.dumps(told | {"data_options": dict(config.data_options)}, sort_keys=True))


@lru_cache(maxsize=2)
def _data(told: str) -> DomainData:
    return data_of(TrainConfig(**json.loads(told)), News())
