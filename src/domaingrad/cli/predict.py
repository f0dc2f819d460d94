"""`domaingrad predict`: what does a trained model say of new files?"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from domaingrad.bench import DataError, Predictions, csv_cell, plain, print_table, terminal
from domaingrad.bench import predict as run_prediction

from .errors import bad_input
from .evaluate import Run
from .shown import echo_json
from .training_view import TrainingView

SHOWN = 3
"""Classes whose probabilities a row of the table shows."""


def predict(
    run: Run,
    files: Annotated[
        list[str], typer.Argument(help="Images, folders of them or patterns; or tables.")
    ],
    id_: Annotated[
        str | None,
        typer.Option("--id", help="The column of a table that names its rows.  [default: line]"),
    ] = None,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave broken images out, and say which.")
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV: every probability.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: every probability.")] = False,
) -> None:
    """Tell the class of new images or rows, with probabilities; or the number, for regression.

    - `domaingrad predict runs/train/PACS-none-erm-1a2b3c4d photos/ --csv > classes.csv`
    """
    errors = Console(stderr=True)
    with bad_input(errors), TrainingView(errors) as view:
        if as_csv and as_json:
            raise DataError("expected --csv or --json; found both.")
        found = run_prediction(
            run, files, skip_unreadable=skip_unreadable, name=id_, news=view.listener.news
        )
    if found.threshold is not None:
        name, least = found.threshold
        errors.print(
            f"Note: decided for {name} from a probability of {least:.3f} on, which the sources' "
            f"validation chose.",
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip
    if as_json:
        echo_json(list(_as_json(found)))
    elif as_csv:
        _write_csv(found)
    else:
        print_table(_table(found), Console())


def _as_json(found: Predictions) -> Iterator[dict[str, Any]]:
    for name, label, output in _rows(found):
        row: dict[str, Any] = {"file": name, "prediction": label}
        if found.model.classes:
            row["probabilities"] = dict(zip(found.model.classes, output, strict=True))
        yield row


def _write_csv(found: Predictions) -> None:
    classes = found.model.classes
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["file", "prediction", *(plain(f"p({name})") for name in classes)])
    for name, label, output in _rows(found):
        writer.writerow([csv_cell(name), csv_cell(label), *(f"{value:.6g}" for value in output)])


def _table(found: Predictions) -> Table:
    classes = found.model.classes
    table = Table("file", "prediction", "probabilities" if classes else "", box=None)
    for name, label, output in _rows(found):
        likeliest = sorted(zip(output, classes, strict=True), key=lambda each: -each[0])[:SHOWN]
        each = ", ".join(f"{title} {100 * value:.1f} %" for value, title in likeliest)
        told = label if isinstance(label, str) else f"{label:.10g}"
        table.add_row(terminal(name), terminal(told), terminal(each))
    return table


def _rows(found: Predictions) -> Iterator[tuple[str, str | float, list[float]]]:
    """Name, prediction and probabilities of each sample; of numbers no probabilities."""
    outputs = found.outputs.tolist() if found.model.classes else [[]] * len(found.names)
    return zip(found.names, found.labels, outputs, strict=True)
