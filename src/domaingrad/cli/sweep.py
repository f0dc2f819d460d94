"""`domaingrad sweep`: methods × data × held-out domains × draws × trials."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from domaingrad.bench.domains import (
    DATA_SETS,
    READERS,
    DataError,
    told_to_hold_out,
)
from domaingrad.bench.methods import listed_methods
from domaingrad.bench.names import import_plugins
from domaingrad.bench.protocol import SELECTIONS
from domaingrad.bench.runs import (
    AnyCrew,
    Plan,
    PlannedRun,
    RayCrew,
    Request,
    SweepDirectory,
    make_plan,
)
from domaingrad.bench.runs.cost import Cost, measure

from . import options
from .errors import bad_input
from .live import duration
from .session import AsJson, Seed, Trials, carry_out_and_report, crew_of, names, ray_crew_of
from .training_view import TrainingView


@options.takes(before="seed")
def sweep(
    data: Annotated[
        list[str],
        typer.Option(
            help="Repeated or with commas: a built-in data set "
            f"({', '.join(DATA_SETS)}), a path, or KIND:PATH with a kind of {', '.join(READERS)}."
        ),
    ],
    methods: Annotated[
        list[str],
        typer.Option(help=f"Repeated or with commas: {', '.join(listed_methods())}."),
    ] = ["erm", "and-mask", "sand-mask", "agr-sum"],  # noqa: B006 - typer reads it
    hold_out: Annotated[
        list[str],
        typer.Option(help="A domain to hold out, repeated for several.  [default: all in turn]"),
    ] = [],  # noqa: B006
    draws: Annotated[
        int, typer.Option(help="Draws of hyper-parameters; the first is that of the defaults.")
    ] = 20,
    trials: Trials = 3,
    selection: Annotated[
        list[str],
        typer.Option(help=f"Selection methods, the headline first: {', '.join(SELECTIONS)}."),
    ] = ["training-domain-validation", "oracle-last", "oracle-best"],  # noqa: B006
    seed: Seed = 0,
    jobs: Annotated[
        int | None,
        typer.Option(help="Runs at a time.  [default: one per core, or --per-gpu of each GPU]"),
    ] = None,
    per_gpu: Annotated[int, typer.Option(help="Runs at a time on each GPU.")] = 1,
    launcher: Annotated[
        Literal["local", "ray"],
        typer.Option(help="Processes of this machine, or the nodes of a Ray cluster."),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(help="Ray: of the cluster.  [default: one of this machine is started]"),
    ] = None,
    keep_models: Annotated[
        bool, typer.Option("--keep-models", help="Keep the selected model of every run.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan, and what it takes, alone.")
    ] = False,
    extend: Annotated[
        bool, typer.Option("--extend", help="Go beyond the smaller sweep that is in --out.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run again what has failed before.")
    ] = False,
    out: Annotated[
        Path, typer.Option(help="Directory for the plan, the runs and the report.")
    ] = Path("runs/sweep"),
    as_json: AsJson = False,
    *,
    settings: Mapping[str, Any],
) -> None:
    """Compare methods under DomainBed's protocol, on any data.

    Holds out each domain in turn, trains every method with every draw of hyper-parameters in every
    trial, and reports the score on the held-out domain of the draw and checkpoint that a selection
    method picks. What is given here (as --learning-rate) is not drawn. Leave-one-domain-out
    selection also holds out each other domain beside it, and so takes several times the runs.

    Prints first what it takes. Runs go on from their last checkpoint after a kill, Ctrl-C or the
    loss of a process; the same command goes on, to the same numbers. `domaingrad report` makes the
    report at any time, also meanwhile.

    - `domaingrad sweep --data spirals --methods erm,and-mask --draws 5 --dry-run`

    - `domaingrad sweep --data pacs:PACS --size 64 --steps 300 --draws 3 --out runs/pacs`
    """
    errors = Console(stderr=True)
    with bad_input(errors):
        shared = dict(settings)
        told, plugins = shared.pop("data_options"), shared.pop("plugins", ())
        accelerator, given = shared.get("accelerator"), names(data, "--data")
        import_plugins(plugins)
        chosen = [told_to_hold_out(each, told) for each in given]
        request = Request(
            data=given,
            methods=names(methods, "--methods"),
            trials=trials,
            draws=draws,
            selections=names(selection, "--selection"),
            hold_out=tuple(hold_out) or tuple(each for each in chosen if each is not None),
            seed=seed,
            settings=shared,
            data_options=told,
            plugins=plugins,
        )
        if address is not None and launcher != "ray":
            raise DataError("--address is that of a Ray cluster; add --launcher ray.")
        with TrainingView(errors) as view:
            plan, read = make_plan(request, view.listener.news)
            directory = SweepDirectory.at(out)
            if directory is not None:
                directory.require(plan, extend)
            todo, failed = _todo(directory, plan, retry_failed)
            crew: AnyCrew
            if launcher == "ray":
                crew = ray_crew_of(address, jobs, keep_models, accelerator, per_gpu)
            else:
                crew = crew_of(jobs, keep_models, accelerator, per_gpu, max(1, len(todo)))
            cost = measure(todo, read, keep_models, view.listener.news)
        _tell_plan(errors, plan, todo, failed, crew, cost)
        if dry_run:
            return
        directory = SweepDirectory(out)
    with bad_input(errors), directory.alone():
        directory.begin(plan, extend)
        for run in todo:
            directory.put_aside(run.key)
        carry_out_and_report(directory, plan, todo, crew, as_json, errors)


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


def _tell_plan(
    console: Console, plan: Plan, todo: list[PlannedRun], failed: int, crew: AnyCrew, cost: Cost
) -> None:
    request = plan.request
    for data in plan.data:
        own = [run for run in plan.runs if run.data == data.name]
        pairs = sum(run.config.also_hold_out is not None for run in own)
        extra = f", {pairs} of them with a second one for leave-one-domain-out" if pairs else ""
        console.print(
            f"{data.name}: {len(own)} runs of {data.steps} steps ({len(request.methods)} methods × "
            f"{request.draws} draws × {request.trials} trials × {len(data.held_out)} held-out "
            f"domains{extra}).",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    where = " on the Ray cluster" if isinstance(crew, RayCrew) else ""
    if failed:
        console.print(f"{failed} runs have failed before; --retry-failed runs them again.")
    console.print(
        f"To be done: {len(todo)} runs, {crew.jobs} at a time{where}, about "
        f"{duration(cost.seconds / crew.jobs)} by the speed of a few steps; "
        f"{_bytes(cost.kept)} on disk at the end, {_bytes(cost.meanwhile * crew.jobs)} more "
        f"meanwhile.",
        highlight=False,
        soft_wrap=True,
    )


def _bytes(count: int) -> str:
    """In a unit that suits.

    >>> _bytes(4096), _bytes(3_200_000_000)
    ('4 kB', '3.2 GB')
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"
