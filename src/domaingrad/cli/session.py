"""What the commands that compare methods share: their options, the runs, the report."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from joblib import cpu_count
from rich.console import Console
from rich.markup import escape

from domaingrad.bench.domains import DATA_SETS, DataError
from domaingrad.bench.reports import (
    Summary,
    against_published,
    latex,
    markdown,
    missing_lines,
    not_comparable,
    print_tables,
    summarise,
    to_json,
    write_csv,
    write_html,
)
from domaingrad.bench.reports.published import COLUMNS, SOURCE
from domaingrad.bench.runs import (
    AnyCrew,
    Crew,
    Event,
    Failed,
    Finished,
    FullDiskError,
    Plan,
    PlannedRun,
    RayCrew,
    SweepDirectory,
    execute,
    uninterrupted,
)

from .live import LiveView

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""

Data = Annotated[
    list[str],
    typer.Option(help=f"Data sets, repeated or with commas: {', '.join(DATA_SETS)}."),
]
Trials = Annotated[
    int, typer.Option(help="Repetitions with fresh data, splits, initialisation and batches.")
]
Steps = Annotated[
    int | None, typer.Option(help="Training steps, instead of each data set's own number.")
]
Seed = Annotated[int, typer.Option(help="All randomness derives from this number and from names.")]
Out = Annotated[Path, typer.Option(help="Directory for records, results and report.html.")]
Jobs = Annotated[
    int | None, typer.Option(help="Runs at a time, one thread each.  [default: one per core]")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the results as JSON on standard output.")
]


def crew_of(
    jobs: int | None, keep_models: bool, accelerator: str | None, per_gpu: int, runs: int
) -> Crew:
    """One process a core, or so many a GPU.

    Raises:
        DataError: fewer than one.
    """
    _require_some(jobs=jobs, per_gpu=per_gpu)
    gpus = torch.cuda.device_count() if accelerator in (None, "auto", "cuda", "gpu") else 0
    # Those that this process sees may have been picked by the variable that workers are given.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
    devices = tuple(name.strip() for name in visible.split(","))[:gpus]
    usual = gpus * per_gpu if gpus else cpu_count()
    return Crew(max(1, min(jobs or usual, runs)), keep_models, devices)


def ray_crew_of(
    address: str | None,
    jobs: int | None,
    keep_models: bool,
    accelerator: str | None,
    per_gpu: int,
) -> RayCrew:
    """One run a core of a Ray cluster, or so many a GPU.

    Raises:
        DataError: fewer than one, or there is no Ray, or no such cluster.
    """
    _require_some(jobs=jobs, per_gpu=per_gpu)
    return RayCrew.connected(address, jobs, keep_models, None if accelerator == "cpu" else per_gpu)


def _require_some(**counts: int | None) -> None:
    for option, count in counts.items():
        if count is not None and count < 1:
            name = option.replace("_", "-")
            raise DataError(f"--{name} must be at least 1; found {count}.")


def carry_out(
    directory: SweepDirectory,
    plan: Plan,
    todo: Sequence[PlannedRun],
    crew: AnyCrew,
    errors: Console,
) -> tuple[dict[str, str], bool]:
    """Carry out what is to be done.

    Returns:
        Why runs have not finished, by key, and whether it was Ctrl-C.

    Raises:
        typer.Exit: the disk is full (1).
    """
    total = len(plan.runs)
    reused = f", {total - len(todo)} of them found in {directory.path}" if len(todo) < total else ""
    errors.print(
        f"{total} runs{reused}; {crew.jobs} at a time. "
        "Held-out scores stay sealed until training ends.",
        highlight=False,
        soft_wrap=True,
    )
    causes: dict[str, str] = {}
    with LiveView(errors, todo, crew.jobs) as view:

        def on_event(event: Event) -> None:
            view.show(event)
            if isinstance(event, Finished):
                directory.forgive(event.run.key)
            elif isinstance(event, Failed):
                causes[event.run.key] = event.cause
                directory.fail(event.run.key, event.cause)

        try:
            execute(todo, directory.place, crew, on_event)
        except KeyboardInterrupt:
            undone = [run.key for run in todo if not directory.finished(run.key)]
            return dict.fromkeys(undone, "interrupted") | causes, True
        except FullDiskError as error:
            full = error
        else:
            return causes, False
    errors.print(f"[bold red]Error:[/] {escape(str(full))}", highlight=False, soft_wrap=True)
    raise typer.Exit(1)


def carry_out_and_report(
    directory: SweepDirectory,
    plan: Plan,
    todo: Sequence[PlannedRun],
    crew: AnyCrew,
    as_json: bool,
    errors: Console,
) -> None:
    """Train what is not there yet, and report.

    Raises:
        typer.Exit: failed runs or a report that cannot be written (1), Ctrl-C (130).
    """
    causes, interrupted = carry_out(directory, plan, todo, crew, errors)
    if interrupted:
        errors.print("Interrupted; writing what is finished.")
    with uninterrupted():
        summary = summarise(directory, causes)
        tell(summary, as_json, False, errors)
        write(summary, directory.path, ["domaingrad", *sys.argv[1:]], False, errors)
    if interrupted:
        errors.print(
            "Finished runs and checkpoints are kept; the same command goes on from here.",
            soft_wrap=True,
        )
        raise typer.Exit(INTERRUPTED)
    if summary.missing:
        raise typer.Exit(1)


def tell(summary: Summary, as_json: bool, published: bool, errors: Console) -> None:
    """Print the tables, what is missing, and warnings."""
    if as_json:
        typer.echo(to_json(summary))
    else:
        console = Console()
        print_tables(summary, console)
        if published:
            for row in against_published(summary):
                words = dict(zip(COLUMNS, row, strict=True))
                console.print(
                    "{data}, {selection}, {method}: {here} here ({runs here}), {published} "
                    "published. Other than there: {other than there}.".format(**words),
                    highlight=False,
                    soft_wrap=True,
                )
            for line in not_comparable(summary):
                console.print(line, highlight=False, soft_wrap=True)
            console.print(f"({SOURCE})", highlight=False, soft_wrap=True)
    for line in missing_lines(summary):
        errors.print(f"[yellow]Missing:[/] {escape(line)}", highlight=False, soft_wrap=True)
    for text, count in summary.warnings.items():
        errors.print(
            f"[yellow]Warning[/] in {count} run(s): {escape(text)}", highlight=False, soft_wrap=True
        )


def write(
    summary: Summary, out: Path, command: Sequence[str], published: bool, errors: Console
) -> None:
    """Write the report in all its forms.

    Raises:
        typer.Exit: it cannot be written (1).
    """
    texts: Mapping[str, str] = {
        "results.md": markdown(summary, shlex.join(command)),
        "results.tex": latex(summary),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_csv(summary, out)
        for name, text in texts.items():
            (out / name).write_text(text, encoding="utf-8")
        write_html(summary, command, out / "report.html", published)
    except OSError as error:
        errors.print(
            f"[bold red]Error:[/] cannot write {escape(str(error.filename or out))}: "
            f"{error.strerror}. "
            f"The runs are kept; mend it and give the same command again.",
            soft_wrap=True,
        )
        raise typer.Exit(1) from None
    errors.print(
        f"Wrote report.html, results.md, results.tex, results.csv and checkpoints.csv to {out}.",
        soft_wrap=True,
        highlight=False,
    )


def names(given: Sequence[str], option: str) -> tuple[str, ...]:
    """Names that were given one by one or with commas.

    Raises:
        DataError: none.
    """
    found = tuple(name.strip() for part in given for name in part.split(",") if name.strip())
    if not found:
        raise DataError(f"expected at least one name for {option}; found none.")
    return found
