"""The command `domaingrad`."""

from __future__ import annotations

from typing import Annotated

import typer

from domaingrad import __version__
from domaingrad.bench import end_with_first

from . import (
    ablate,
    compare,
    embed,
    evaluate,
    export,
    faces,
    inspect,
    listing,
    predict,
    report,
    sweep,
    train,
)

__all__ = ["app", "end_with_first"]

app = typer.Typer(
    name="domaingrad",
    help="Train on several domains so that the model holds on one it has never seen.\n\n"
    "Start with `domaingrad compare`, which needs no data and takes two to four minutes.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(name="compare")(compare.compare)
app.command(name="train")(train.train)
app.command(name="embed")(embed.embed)
app.command(name="evaluate")(evaluate.evaluate)
app.command(name="predict")(predict.predict)
app.command(name="export")(export.export)
app.command(name="inspect")(inspect.inspect)
app.command(name="sweep")(sweep.sweep)
app.command(name="report")(report.report)
app.command(name="prepare-faces")(faces.prepare)
app.command(name="fas-synthetic")(faces.synthesise)
app.add_typer(ablate.app, name="ablate")
app.add_typer(listing.app, name="list")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"domaingrad {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""
