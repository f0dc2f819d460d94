"""`domaingrad report`: what a sweep has found, finished or not."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from domaingrad.bench import (
    SweepDirectory,
    is_writable,
    latex,
    markdown,
    require_room_for_report,
    summarise,
)

from .errors import bad_input
from .session import AsJson, tell, write
from .shown import say


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
    as_json: AsJson = False,
) -> None:
    """Report a sweep: selection methods side by side, paired differences, what is missing.

    Opens the sealed scores of the held-out domains, prints the tables, and writes `report.html`,
    `results.md`, `results.tex`, `results.csv` (what was selected) and `checkpoints.csv` (all there
    is). Of a sweep that is not finished it reports what there is, and what is missing.

    - `domaingrad report runs/sweep --against published`
    """
    errors = Console(stderr=True)
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
