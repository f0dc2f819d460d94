"""`domaingrad sweep`: methods × data × held-out domains × draws × trials."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from domaingrad.bench import (
    DATA_SETS,
    READERS,
    REFERENCES,
    SELECTIONS,
    PlannedSweep,
    RayCrew,
    Stacking,
    SweepConfig,
    import_plugins,
    listed_methods,
    plan_sweep,
    told_to_hold_out,
)

from . import options
from .errors import bad_input
from .live import duration, in_bytes
from .session import AsJson, Seed, Trials, carry_out_and_report, names
from .shown import say
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
    model: Annotated[
        list[str],
        typer.Option(
            help="References of scikit-learn beside the methods, repeated or with commas: "
            f"{', '.join(REFERENCES)}; or a backbone."
        ),
    ] = [],  # noqa: B006
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
    stack: Annotated[
        Stacking,
        typer.Option(
            help="Train runs of one small network together, to the same numbers up to rounding; "
            "auto where it is quicker."
        ),
    ] = "auto",
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

    - `domaingrad sweep --data patients.csv --target ill --domain hospital --methods erm,and-mask
    --model hist-gradient-boosting,logistic`

    - `domaingrad sweep --data pacs:PACS --size 64 --steps 300 --draws 3 --out runs/pacs`
    """
    errors = Console(stderr=True)
    with bad_input(errors):
        shared = dict(settings)
        told, plugins, given = (
            shared.pop("data_options"),
            shared.pop("plugins", ()),
            names(data, "--data"),
        )
        import_plugins(plugins)
        chosen = [told_to_hold_out(each, told) for each in given]
        models = options.listed(model) or ()
        references = [each for each in models if each in REFERENCES]
        for backbone in {*models} - {*references}:
            shared["backbone"] = backbone
        config = SweepConfig(
            data=given,
            methods=(*names(methods, "--methods"), *references),
            trials=trials,
            draws=draws,
            selections=names(selection, "--selection"),
            hold_out=tuple(hold_out) or tuple(each for each in chosen if each is not None),
            seed=seed,
            settings=shared,
            data_options=told,
            plugins=plugins,
        )
        with TrainingView(errors) as view:
            planned = plan_sweep(
                config, out, jobs=jobs, per_gpu=per_gpu, launcher=launcher, address=address,
                keep_models=keep_models, extend=extend, retry_failed=retry_failed, stack=stack,
                estimate=True, dry_run=dry_run, news=view.listener.news,
            )  # fmt: skip
        _tell_plan(errors, planned)
    if dry_run:
        return
    with bad_input(errors), planned.begun():
        carry_out_and_report(planned, as_json, errors)


def _tell_plan(console: Console, planned: PlannedSweep) -> None:
    plan, crew, cost = planned.plan, planned.crew, planned.cost
    request, failed = plan.request, planned.left_alone
    assert cost is not None
    for data in plan.data:
        own = [run for run in plan.runs if run.data == data.name]
        pairs = sum(run.config.also_hold_out is not None for run in own)
        extra = f", {pairs} of them with a second one for leave-one-domain-out" if pairs else ""
        say(
            console,
            f"{data.name}: {len(own)} runs of {data.steps} steps ({len(request.methods)} methods × "
            f"{request.draws} draws × {request.trials} trials × {len(data.held_out)} held-out "
            f"domains{extra}).",
        )
    if sizes := [len(bundle.runs) for bundle in planned.bundles if bundle.together]:
        say(console, f"{sum(sizes)} runs train together, up to {max(sizes)} at a time.")
        for why, count in planned.alone.items():
            say(console, f"{count} runs train alone: {why}.")
    where = " on the Ray cluster" if isinstance(crew, RayCrew) else ""
    if failed:
        say(console, f"{failed} runs have failed before; --retry-failed runs them again.")
    say(
        console,
        f"To be done: {len(planned.todo)} runs, {crew.jobs} at a time{where}, about "
        f"{duration(cost.seconds / crew.jobs)} by the speed of a few steps; "
        f"{in_bytes(cost.kept)} on disk at the end, {in_bytes(cost.meanwhile * crew.jobs)} more "
        f"meanwhile.",
    )
