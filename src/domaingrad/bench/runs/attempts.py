"""Runs of a sweep, carried out here, one alone or several together."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from domaingrad.bench.disk import FullDiskError
from domaingrad.bench.domains import DataError, DomainData, News, is_drawn
from domaingrad.bench.names import import_plugins

from .events import Apart, Failed, Finished, Progress
from .interrupts import interrupted_after
from .isolation import isolated, noted_warnings
from .launching import alone_on
from .plan import Bundle, PlannedRun, key_of
from .ranks import Ranks
from .resumable import Carried, Listener, Status, Underway
from .settings import TrainConfig, written
from .stacked import Stack
from .training import data_of, train, underway

NEWS_EVERY = 0.2
"""Seconds between two pieces of news, which runs that train together tell in turn."""
WRITTEN_EVERY = 10.0
"""Seconds after which a run that trains with others is written down at its next checkpoint."""
PATIENCE = 30.0
"""Seconds to wait for a process that is left over from a sweep that was killed."""


Places = Mapping[str, Path]
"""Directories of runs, by key."""


def places_of(bundle: Bundle, place: Callable[[str], Path]) -> Places:
    """The directories of a bundle's runs, which keys tell."""
    return {run.key: place(run.key) for run in bundle.runs}


def attempt(
    bundle: Bundle,
    places: Places,
    keep_models: bool,
    on_news: Callable[[Progress | Apart], None],
    patience: float = PATIENCE,
) -> list[Finished | Failed]:
    """Carry out runs here, together or one alone, on one thread, and tell of it now and then.

    Args:
        bundle: the runs.
        places: where they are.
        keep_models: whether the selected models stay.
        on_news: who hears of them.
        patience: seconds to wait for another process that is at work there.

    Raises:
        FullDiskError: what else a run may die of is in what is returned.
    """
    with isolated(0, threads=1):
        if bundle.together:
            return list(_together(bundle, places, keep_models, on_news, patience))
        return [_alone(run, places[run.key], keep_models, on_news, patience) for run in bundle.runs]


def _alone(
    run: PlannedRun,
    place: Path,
    keep_model: bool,
    on_news: Callable[[Progress], None],
    patience: float,
) -> Finished | Failed:
    try:
        data = _checked(run)
        result = train(
            run.config, place, _listener(run, on_news, 1), data=data, patience=patience,
            keep_model=keep_model,
        )  # fmt: skip
    except FullDiskError:
        raise
    except Exception:  # noqa: BLE001 - whatever a run dies of, the others go on
        return Failed(run, traceback.format_exc())
    return Finished(run, result.seconds, result.selected)


@dataclass
class _Member:
    """A run that trains with others."""

    run: PlannedRun
    underway: Underway
    warned: dict[str, str]
    """What it has warned of, by category."""
    written: float

    @contextmanager
    def noting(self) -> Iterator[None]:
        """What is warned of inside is this run's."""
        with noted_warnings() as warned:
            yield
        self.warned = {each.partition(":")[0]: each for each in warned} | self.warned


def _together(
    bundle: Bundle,
    places: Places,
    keep_models: bool,
    on_news: Callable[[Progress | Apart], None],
    patience: float,
) -> Iterator[Finished | Failed]:
    """Runs as one stack; those that cannot begin, or fail, end alone.

    If the stack itself fails, those that are left go on one by one from their last checkpoints.
    """
    left = {run.key: run for run in bundle.runs}
    with ExitStack() as held:
        members = []
        for run in bundle.runs:
            try:
                member = _begun(
                    run, places[run.key], on_news, held, patience, keep_models, len(bundle.runs)
                )
            except FullDiskError:
                raise
            except Exception:  # noqa: BLE001 - likewise
                del left[run.key]
                yield Failed(run, traceback.format_exc())
                continue
            if member is not None:
                members.append(member)
        try:
            for ended in _stacked(members, keep_models):
                del left[ended.run.key]
                yield ended
        except FullDiskError:
            raise
        except Exception:  # noqa: BLE001 - said, and each run will tell what it dies of
            on_news(Apart(tuple(left.values()), traceback.format_exc()))
    for key, run in left.items():
        yield _alone(run, places[key], keep_models, on_news, patience)


def _begun(
    run: PlannedRun,
    place: Path,
    on_news: Callable[[Progress], None],
    held: ExitStack,
    patience: float,
    keep_model: bool,
    together: int,
) -> _Member | None:
    data = _checked(run)
    ranks = Ranks(partial(alone_on, run.config))
    carried = Carried(ranks, _listener(run, on_news, together), (), keep_model)
    found = underway(run.config, data, place, carried, held, patience)
    return None if found is None else _Member(run, found, {}, time.perf_counter())


def _stacked(members: Sequence[_Member], keep_models: bool) -> Iterator[Finished | Failed]:
    """Train runs together to their ends."""
    of = {id(member.underway.trainer): member for member in members}
    begun = [each.underway.trainer for each in members if not each.underway.ended]
    yield from (_finished(each, keep_models) for each in members if each.underway.ended)
    stack = Stack(begun) if begun else None
    while stack is not None:
        trainers = stack.trainers
        over = set()
        with interrupted_after():
            due = stack.step()
        if due:
            for row, outputs, agreement in stack.evaluated(due):
                member = of[id(trainers[row])]
                try:
                    with member.noting():
                        member.underway.keep(*trainers[row].judged(outputs, agreement))
                    if member.underway.ended:
                        member.underway.spend(len(trainers))
                        over.add(row)
                        yield _finished(member, keep_models)
                    elif time.perf_counter() - member.written > WRITTEN_EVERY:
                        member.underway.write()
                        member.written = time.perf_counter()
                except FullDiskError:
                    raise
                except Exception:  # noqa: BLE001 - likewise
                    over.add(row)
                    yield Failed(member.run, traceback.format_exc())
        for row, each in enumerate(trainers):
            of[id(each)].underway.spend(len(trainers))
            if row not in over:
                of[id(each)].underway.tell()
        if over:
            stack = stack.of([row for row in stack.rows if row not in over])


def _finished(member: _Member, keep_model: bool) -> Finished:
    """Write down that a run has ended; of one whose model does not stay the records alone."""
    if keep_model:
        member.underway.write()
    member.underway.finish(list(member.warned.values()))
    return Finished(member.run, member.underway.seconds, member.underway.selected)


def _listener(run: PlannedRun, on_news: Callable[[Progress], None], together: int) -> Listener:
    """Passes on news of one of so many runs every now and then."""
    last = time.perf_counter()

    def report(status: Status) -> None:
        nonlocal last
        now = time.perf_counter()
        if now - last >= NEWS_EVERY * together:
            last = now
            on_news(Progress(run, status.step, status.here, status.seconds, status.checkpoint))

    return Listener(step=report)


def _checked(run: PlannedRun) -> DomainData:
    """The data of a run as it was planned.

    Raises:
        DataError: something has changed since.
    """
    import_plugins(run.config.plugins)
    data = _data_of(run.config)
    if key_of(written(run.config, data), run.draw) != run.key:
        raise DataError(
            "the data, the weights or the code have changed since the sweep was planned; "
            "put them back, or begin another sweep."
        )
    return data


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
