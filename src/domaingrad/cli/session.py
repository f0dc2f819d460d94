"""What the commands that compare methods share: their options, the runs, the report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from joblib import cpu_count
from rich.console import Console
from rich.markup import escape

from domaingrad.bench.domains import DATA_SETS
from domaingrad.bench.reports import (
    markdown,
    missing_lines,
    print_tables,
    results_csv,
    summarise,
    to_json,
    write_html,
)
from domaingrad.bench.runs import (
    Comparison,
    Event,
    Failed,
    Finished,
    Records,
    execute,
    plan,
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


def carry_out(
    data: Sequence[str],
    methods: Sequence[str],
    trials: int,
    steps: int | None,
    seed: int,
    out: Path,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Plan, train what is not there yet, and report.

    Raises:
        typer.Exit: bad input (2), failed runs or a report that cannot be written (1), Ctrl-C (130).
    """
    errors = Console(stderr=True)
    try:
        comparison = plan(names(data), names(methods), trials, seed, steps)
        if jobs is not None and jobs < 1:
            raise ValueError(f"jobs must be at least 1; found {jobs}.")
        records = _records(out)
        finished = records.runs()
    except ValueError as error:
        errors.print(f"[bold red]Error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None
    todo = [config for config in comparison.runs if config.key not in finished]
    workers = max(1, min(jobs or cpu_count(), len(todo)))
    _announce(errors, comparison, len(todo), workers, out)
    causes: dict[str, str] = {}
    interrupted = False
    with LiveView(errors, todo, workers) as view:

        def on_event(event: Event) -> None:
            view.show(event)
            if isinstance(event, Finished):
                records.append(event.record, event.held_out)
            elif isinstance(event, Failed):
                causes[event.config.key] = event.cause

        try:
            execute(todo, workers, on_event)
        except KeyboardInterrupt:
            interrupted = True
    if interrupted:
        causes |= {run.key: "interrupted" for run in todo if run.key not in causes}
        errors.print("Interrupted; writing what is finished.")
    with uninterrupted():
        _report(comparison, records, causes, as_json, errors)
    if interrupted:
        errors.print("Finished runs are kept; the same command goes on from here.")
        raise typer.Exit(INTERRUPTED)
    if causes:
        raise typer.Exit(1)


def _report(
    comparison: Comparison,
    records: Records,
    causes: dict[str, str],
    as_json: bool,
    errors: Console,
) -> None:
    out = records.directory
    summary = summarise(comparison, records, causes)
    if as_json:
        typer.echo(to_json(summary))
    else:
        print_tables(summary, Console())
    for line in missing_lines(summary):
        errors.print(f"[yellow]Missing:[/] {escape(line)}", highlight=False, soft_wrap=True)
    for text, count in summary.warnings.items():
        errors.print(
            f"[yellow]Warning[/] in {count} run(s): {escape(text)}", highlight=False, soft_wrap=True
        )
    try:
        results_csv(summary, out / "results.csv")
        command = ["domaingrad", *sys.argv[1:]]
        (out / "results.md").write_text(markdown(summary, shlex.join(command)), encoding="utf-8")
        write_html(summary, command, out / "report.html")
    except OSError as error:
        errors.print(
            f"[bold red]Error:[/] cannot write {escape(str(error.filename))}: {error.strerror}. "
            f"The runs are kept; mend it and give the same command again.",
            soft_wrap=True,
        )
        raise typer.Exit(1) from None
    errors.print(f"Wrote report.html, results.md and results.csv to {out}.", soft_wrap=True)


def names(given: Sequence[str]) -> list[str]:
    """Names that were given one by one or with commas."""
    found = [name.strip() for part in given for name in part.split(",") if name.strip()]
    if not found:
        raise ValueError("expected at least one name for --data and --methods; found none.")
    return found


def _records(out: Path) -> Records:
    try:
        return Records(out)
    except OSError as error:
        raise ValueError(
            f"cannot write to --out {out}: {error.strerror}. Choose a directory of your own."
        ) from error


def _announce(console: Console, plan: Comparison, todo: int, workers: int, out: Path) -> None:
    total = len(plan.runs)
    reused = f", {total - todo} of them found in {out}" if todo < total else ""
    console.print(
        f"{total} runs{reused}; {workers} at a time. "
        "Held-out accuracy stays sealed until training ends.",
        highlight=False,
        soft_wrap=True,
    )
