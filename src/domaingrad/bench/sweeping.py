"""Sweeps: planned in a directory, carried out, reported."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypedDict, Unpack

import torch
from joblib import cpu_count

from .disk import is_writable
from .domains import DataError, News
from .names import import_plugins
from .reports import Summary, require_room_for_report, summarise, write_report
from .runs import (
    AnyCrew,
    Bundle,
    Crew,
    Event,
    Failed,
    Finished,
    Plan,
    PlannedRun,
    RayCrew,
    RunDirectory,
    Stacking,
    SweepConfig,
    SweepDirectory,
    bundles_of,
    execute,
    make_plan,
)
from .runs.cost import Cost, measure
from .runs.events import OnEvent


class Where(TypedDict, total=False):
    """How a sweep is carried out; :func:`plan_sweep` says what each is."""

    jobs: int | None
    per_gpu: int
    launcher: Literal["local", "ray"]
    address: str | None
    keep_models: bool
    extend: bool
    retry_failed: bool
    stack: Stacking
    news: News | None


@dataclass
class PlannedSweep:
    """A sweep before and while it is carried out."""

    out: Path
    plan: Plan
    todo: tuple[PlannedRun, ...]
    """Runs that are not finished yet, but for those that have failed and are left alone."""
    bundles: tuple[Bundle, ...]
    """The same, those that train together side by side."""
    alone: Mapping[str, int]
    """Why how many runs train alone, where runs may train together."""
    left_alone: int
    """How many those are."""
    crew: AnyCrew
    cost: Cost | None
    """``None`` where it was not asked for."""
    extend: bool = False
    causes: dict[str, str] = field(default_factory=dict)
    """Why runs of this time have not finished, by key."""

    @property
    def only_shown(self) -> bool:
        """Whether nothing is to be done in a directory that cannot be written to."""
        return not self.todo and self.out.is_dir() and not is_writable(self.out)

    @contextmanager
    def begun(self) -> Iterator[None]:
        """Alone in the directory, with the plan written down.

        Raises:
            RunDirectoryError: it holds another sweep, or another process is at work there.
        """
        directory = SweepDirectory(self.out)
        if self.only_shown:
            yield
            return
        directory.make()
        with directory.alone():
            if self.plan.request.any_plan:
                directory.replace(self.plan)
            else:
                directory.begin(self.plan, self.extend)
            for run in self.todo:
                directory.put_aside(run.key)
            for run in self.plan.runs:  # a kill may have left what was to be removed
                RunDirectory(directory.place(run.key)).tidy()
            yield

    def carry_out(self, on_event: OnEvent = lambda _: None) -> None:
        """Carry out what is to be done; inside of :meth:`begun`.

        Raises:
            KeyboardInterrupt: after all processes have ended; the same sweep goes on from there.
            FullDiskError: likewise.
        """
        directory = SweepDirectory(self.out)

        def heard(event: Event) -> None:
            on_event(event)
            if isinstance(event, Finished):
                directory.forgive(event.run.key)
            elif isinstance(event, Failed):
                self.causes[event.run.key] = event.cause
                directory.fail(event.run.key, event.cause)

        try:
            execute(self.bundles, directory.place, self.crew, heard)
        except KeyboardInterrupt:
            undone = [run.key for run in self.todo if not directory.finished(run.key)]
            self.causes = dict.fromkeys(undone, "interrupted") | self.causes
            raise

    def summary(self) -> Summary:
        """What there is of it; opens the held-out scores."""
        return summarise(SweepDirectory(self.out), self.causes)


def plan_sweep(
    config: SweepConfig,
    out: str | Path,
    *,
    jobs: int | None = None,
    per_gpu: int = 1,
    launcher: Literal["local", "ray"] = "local",
    address: str | None = None,
    keep_models: bool = False,
    extend: bool = False,
    retry_failed: bool = False,
    stack: Stacking = "auto",
    estimate: bool = False,
    dry_run: bool = False,
    news: News | None = None,
) -> PlannedSweep:
    """See what a sweep takes, and that it can be carried out; nothing is written.

    Args:
        config: what is asked for.
        out: directory of the sweep.
        jobs: runs at a time; one a core, or ``per_gpu`` of each GPU unless given.
        per_gpu: runs at a time on each GPU.
        launcher: processes of this machine, or the nodes of a Ray cluster.
        address: of the cluster; one of this machine is started unless given.
        keep_models: whether the selected model of every run stays.
        extend: whether it may go beyond a smaller sweep in the directory.
        retry_failed: whether what has failed before is run again.
        stack: whether runs of small networks train together, to the same numbers up to rounding.
        estimate: whether a few steps are taken to estimate time and disk.
        dry_run: whether it is not to be carried out, so that nothing need be decoded or embedded.
        news: who hears of reading data and of the estimate.

    Raises:
        ValueError: a name in no list, a number that makes no sense, data that cannot be read, no
            such cluster, another sweep in the directory.
    """
    if address is not None and launcher != "ray":
        raise DataError("address is that of a Ray cluster; take the launcher ray.")
    for name, count in (("jobs", jobs), ("per_gpu", per_gpu)):
        if count is not None and count < 1:
            raise DataError(f"{name} must be at least 1; found {count}.")
    out, news = Path(out), news or News()
    require_room_for_report(out)
    import_plugins(config.plugins)
    directory = SweepDirectory.at(out)
    known = directory.plan().fingerprints if directory is not None and dry_run else None
    plan, read = make_plan(config, news, counted=dry_run, known=known)
    if directory is not None and not config.any_plan:
        directory.require(plan, extend)
    todo, left_alone = _todo(directory, plan, retry_failed)
    accelerator = config.settings.get("accelerator")
    crew: AnyCrew
    if launcher == "ray":
        on_gpus = None if accelerator == "cpu" else per_gpu
        crew = RayCrew.connected(address, jobs, keep_models, on_gpus)
    else:
        crew = crew_of(jobs, keep_models, accelerator, per_gpu, max(1, len(todo)))
    bundles, alone = bundles_of(todo, read, crew.jobs, stack)
    cost = measure(bundles, read, keep_models, news) if estimate else None
    return PlannedSweep(
        out, plan, tuple(todo), tuple(bundles), alone, left_alone, crew, cost, extend
    )


def sweep(
    config: SweepConfig,
    out: str | Path,
    *,
    on_event: OnEvent = lambda _: None,
    **where: Unpack[Where],
) -> Summary:
    """Methods × data × held-out domains × draws × trials, as ``domaingrad sweep`` has it.

    Called again it goes on where it was left. The report is written to ``out``.

    Args:
        config: what is asked for.
        out: directory of the sweep.
        on_event: who hears of runs.
        where: jobs, per_gpu, launcher, address, keep_models, extend, retry_failed, stack and
            news, as :func:`plan_sweep` has them.

    Raises:
        ValueError: as :func:`plan_sweep`.
        FullDiskError: what was written is whole; the same sweep goes on.

    >>> import tempfile
    >>> config = SweepConfig(
    ...     data=("colored-digits",), methods=("erm",), hold_out=("-90%",), trials=1,
    ...     settings={"steps": 20, "accelerator": "cpu"},
    ... )
    >>> with tempfile.TemporaryDirectory() as out:
    ...     summary = sweep(config, out, jobs=1)
    >>> summary.missing
    {}
    """
    planned = plan_sweep(config, out, **where)
    with planned.begun():
        planned.carry_out(on_event)
        summary = planned.summary()
        if not planned.only_shown:
            write_report(summary, planned.out, ["domaingrad.bench.sweep"])
    return summary


def _todo(
    directory: SweepDirectory | None, plan: Plan, retry_failed: bool
) -> tuple[list[PlannedRun], int]:
    """Runs that are not finished, and how many are left out because they have failed."""
    if directory is None:
        return list(plan.runs), 0
    todo, failed = [], 0
    for run in plan.runs:
        if directory.finished(run.key):
            continue
        if directory.failure(run.key) is not None and not retry_failed:
            failed += 1
        else:
            todo.append(run)
    return todo, failed


def crew_of(
    jobs: int | None, keep_models: bool, accelerator: str | None, per_gpu: int, runs: int
) -> Crew:
    """One process a core, or so many a GPU."""
    gpus = torch.cuda.device_count() if accelerator in (None, "auto", "cuda", "gpu") else 0
    # Those that this process sees may have been picked by the variable that workers are given.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
    devices = tuple(name.strip() for name in visible.split(","))[:gpus]
    usual = gpus * per_gpu if gpus else cpu_count()
    return Crew(max(1, min(jobs or usual, runs)), keep_models, devices)
