"""`domaingrad list`: what there is to name on the command line."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.table import Column, Table

from domaingrad.bench import DATA_SETS, READERS, REFERENCES, hyperparameter, listed_methods

app = typer.Typer(no_args_is_help=True)


@app.command("data")
def data() -> None:
    """Built-in data sets, and kinds of data that lie on disk.

    - `domaingrad list data`
    """
    table = Table(Column("name", no_wrap=True), "what it is", "held out in turn", "source")
    for entry in DATA_SETS.values():
        table.add_row(entry.name, entry.summary, ", ".join(entry.held_out), entry.source)
    Console().print(table)
    kinds = Table(Column("for train: KIND:PATH", no_wrap=True), "what lies there")
    for reader in READERS.values():
        kinds.add_row(reader.kind, reader.summary)
    Console().print(kinds)


@app.command("methods")
def methods() -> None:
    """Methods: what they do, what a step costs, their hyper-parameters, where they are from.

    - `domaingrad list methods`
    """
    columns = ("what it does", "cost of a step", "hyper-parameters", "paper")
    table = Table(Column("name", no_wrap=True), *columns)
    for entry in (*listed_methods().values(), *REFERENCES.values()):
        options = ", ".join(hyperparameter(*item) for item in entry.hyperparameters().items())
        info = entry.info
        table.add_row(info.name, info.summary, info.cost, options or "none", info.paper)
    Console().print(table)
