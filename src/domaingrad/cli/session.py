"""What the commands that compare methods share: their options, the runs, the report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from domaingrad.bench import (
    DATA_SETS,
    DataError,
    FullDiskError,
    PlannedSweep,
    Summary,
    SweepConfig,
    look_up,
    missing_lines,
    plan_sweep,
    print_tables,
    published_lines,
    to_json,
    uninterrupted,
    write_report,
)

from .errors import INTERRUPTED, bad_input
from .live import LiveView
from .shown import fail, say

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


def carry_out_and_report(planned: PlannedSweep, as_json: bool, errors: Console) -> None:
    """Train what is not there yet, and report.

    Raises:
        typer.Exit: failed runs, a full disk or a report that cannot be written (1), Ctrl-C (130).
    """
    total, todo, jobs = len(planned.plan.runs), len(planned.todo), planned.crew.jobs
    reused = f", {total - todo} of them found in {planned.out}" if todo < total else ""
    sealed = "Held-out scores stay sealed until training ends."
    say(errors, f"{total} runs{reused}; {jobs} at a time. {sealed}")
    interrupted = False
    try:
        with LiveView(errors, planned.todo, jobs) as view:
            planned.carry_out(view.show)
    except KeyboardInterrupt:
        interrupted = True
        say(errors, "Interrupted; writing what is finished.")
    except FullDiskError as error:
        fail(errors, error)
        raise typer.Exit(1) from None
    with uninterrupted():
        summary = planned.summary()
        tell(summary, as_json, False, errors)
        if planned.only_shown:
            say(errors, f"No report is written, since {planned.out} is read-only.")
        else:
            write(summary, planned.out, ["domaingrad", *sys.argv[1:]], False, errors)
    if interrupted:
        say(errors, "Finished runs and checkpoints are kept; the same command goes on from here.")
        raise typer.Exit(INTERRUPTED)
    if summary.missing:
        raise typer.Exit(1)


def compare_built_in(
    data: Sequence[str],
    methods: Sequence[str],
    trials: int,
    steps: int | None,
    seed: int,
    out: Path,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Plan, train what is not there yet, and report; what failed before is tried again.

    Raises:
        typer.Exit: bad input (2), failed runs or a report that cannot be written (1), Ctrl-C (130).
    """
    errors = Console(stderr=True)
    with bad_input(errors):
        given = names(data, "--data")
        for name in given:
            look_up("data set", name, DATA_SETS)
        config = SweepConfig(
            data=given,
            methods=names(methods, "--methods"),
            trials=trials,
            seed=seed,
            any_plan=True,
            settings={"steps": steps, "accelerator": "cpu"},
        )
        planned = plan_sweep(config, out, jobs=jobs, retry_failed=True)
    with bad_input(errors), planned.begun():
        carry_out_and_report(planned, as_json, errors)


def tell(summary: Summary, as_json: bool, published: bool, errors: Console) -> None:
    """Print the tables, what is missing, and warnings."""
    if as_json:
        typer.echo(to_json(summary))
    else:
        console = Console()
        print_tables(summary, console)
        for line in published_lines(summary) if published else ():
            say(console, line)
    for line in missing_lines(summary):
        say(errors, line, "Missing:", "yellow")
    for text, count in summary.warnings.items():
        say(errors, f"in {count} run(s): {text}", "Warning", "yellow")


def write(
    summary: Summary, out: Path, command: Sequence[str], published: bool, errors: Console
) -> None:
    """Write the report in all its forms.

    Raises:
        typer.Exit: it cannot be written (1).
    """
    try:
        write_report(summary, out, command, published)
    except OSError as error:
        fail(
            errors,
            f"cannot write {error.filename or out}: {error.strerror}. The runs are kept; mend it "
            f"and give the same command again.",
        )
        raise typer.Exit(1) from None
    files = "report.html, results.md, results.tex, results.csv and checkpoints.csv"
    say(errors, f"Wrote {files} to {out}.")


def names(given: Sequence[str], option: str) -> tuple[str, ...]:
    """Names that were given one by one or with commas.

    Raises:
        DataError: none.
    """
    found = tuple(name.strip() for part in given for name in part.split(",") if name.strip())
    if not found:
        raise DataError(f"expected at least one name for {option}; found none.")
    return found
