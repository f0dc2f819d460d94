"""`domaingrad report`: what a sweep has found, finished or not."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from domaingrad.bench import (
    AveragedRuns,
    SweepDirectory,
    average_runs,
    is_writable,
    latex,
    markdown,
    print_table,
    require_room_for_report,
    summarise,
    terminal,
)

from .errors import bad_input
from .session import AsJson, tell, write
from .shown import echo_json, say
from .training_view import TrainingView

ROLES = ("source, validation", "held out")


def report(
    sweep: Annotated[Path, typer.Argument(help="Directory of a sweep.")],
    against: Annotated[
        Literal["published"] | None,
        typer.Option(help="`published`: numbers of papers beside these, where they may stand."),
    ] = None,
    form: Annotated[
        Literal["table", "markdown", "latex"],
        typer.Option("--format", help="What is printed."),
    ] = "table",
    out: Annotated[
        Path | None, typer.Option(help="Where the files go.  [default: the sweep's directory]")
    ] = None,
    averaged: Annotated[
        bool,
        typer.Option(
            "--average-runs",
            help="Evaluate the mean of the weights of all draws of a trial (DiWA), instead; of a "
            "sweep with --draws and --keep-models.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Report a sweep: selection methods side by side, paired differences, what is missing.

    Opens the sealed scores of the held-out domains, prints the tables, and writes `report.html`,
    `results.md`, `results.tex`, `results.csv` (what was selected) and `checkpoints.csv` (all there
    is). Of a sweep that is not finished it reports what there is, and what is missing.

    - `domaingrad report runs/sweep --against published`
    """
    errors = Console(stderr=True)
    if averaged:
        with bad_input(errors), TrainingView(errors) as view:
            found = average_runs(sweep, view.listener.news)
        _tell_averages(found, as_json)
        return
    command = ["domaingrad", *sys.argv[1:]]
    with bad_input(errors):
        require_room_for_report(out or sweep)
        summary = summarise(SweepDirectory.existing(sweep))
        if form == "table" or as_json:
            tell(summary, as_json, against is not None, errors)
        else:
            text = latex(summary) if form == "latex" else markdown(summary, shlex.join(command))
            typer.echo(text)
        if out is None and not is_writable(sweep):
            say(errors, f"No report is written, since {sweep} is read-only; --out names a place.")
        else:
            write(summary, out or sweep, command, against is not None, errors)


def _tell_averages(found: Sequence[AveragedRuns], as_json: bool) -> None:
    rows = []
    for each in found:
        of = {role: [d for d in each.evaluation.domains if d.role == role] for role in ROLES}
        first = next(iter(of["held out"][0].metrics))
        sources = of["source, validation"]
        count = sum(domain.samples for domain in sources)
        mean = sum(d.samples * d.metrics[first] for d in sources) / count
        rows.append(
            {
                "data": each.data, "method": each.method, "held out": each.held_out,
                "trial": each.trial + 1, "draws": each.draws, "metric": first,
                "source validation": mean, "held-out score": of["held out"][0].metrics[first],
            }
        )  # fmt: skip
    if as_json:
        echo_json(rows)
        return
    table = Table(*rows[0], box=None, title="the mean of the draws' weights (DiWA, uniform)")
    for row in rows:
        shown = (
            f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()
        )
        table.add_row(*map(terminal, shown))
    print_table(table, Console())
