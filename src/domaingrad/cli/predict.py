"""`domaingrad predict`: what does a trained model say of new files?"""

from __future__ import annotations

import csv
import glob
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from domaingrad.bench.domains import DataError
from domaingrad.bench.reports.run_parts import model_of_run
from domaingrad.bench.runs.directory import RunDirectory
from domaingrad.bench.runs.trained import TrainedModel

from .errors import bad_input
from .evaluate import Run

SHOWN = 3
"""Classes whose probabilities a row of the table shows."""


def predict(
    run: Run,
    files: Annotated[
        list[str], typer.Argument(help="Images, folders of them or patterns; or CSV tables.")
    ],
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV: every probability.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: every probability.")] = False,
) -> None:
    """Tell the class of new images or rows, with probabilities; or the number, for regression.

    - `domaingrad predict runs/train/PACS-none-erm-1a2b3c4d photos/ --csv > classes.csv`
    """
    with bad_input(Console(stderr=True)):
        if as_csv and as_json:
            raise DataError("expected --csv or --json; found both.")
        trained = model_of_run(RunDirectory.existing(run))
        names, stored = trained.preparation.read(_paths(files))
        outputs = trained.outputs(stored)
    if as_json:
        rows = [_as_json(trained, *row) for row in zip(names, outputs, strict=True)]
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    elif as_csv:
        _write_csv(trained, names, outputs)
    else:
        Console().print(_table(trained, names, outputs))


def _paths(files: list[str]) -> list[Path]:
    """Files and folders; patterns that no shell has filled in are filled in here."""
    paths: list[Path] = []
    for name in files:
        found = [name] if Path(name).exists() else sorted(glob.glob(name, recursive=True))
        if not found:
            raise DataError(f"there is no file or folder {name}, and nothing of that pattern.")
        paths += map(Path, found)
    return paths


def _prediction(trained: TrainedModel, output: Tensor) -> str | float:
    if trained.task == "classification":
        return trained.classes[int(output.argmax())]
    return output.item()


def _as_json(trained: TrainedModel, name: str, output: Tensor) -> dict[str, Any]:
    row: dict[str, Any] = {"file": name, "prediction": _prediction(trained, output)}
    if trained.task == "classification":
        row["probabilities"] = dict(zip(trained.classes, output.tolist(), strict=True))
    return row


def _write_csv(trained: TrainedModel, names: list[str], outputs: Tensor) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["file", "prediction", *(f"p({name})" for name in trained.classes)])
    for name, output in zip(names, outputs, strict=True):
        each = [f"{value:.6g}" for value in output.tolist()] if trained.classes else []
        writer.writerow([name, _prediction(trained, output), *each])


def _table(trained: TrainedModel, names: list[str], outputs: Tensor) -> Table:
    table = Table("file", "prediction", "probabilities" if trained.classes else "", box=None)
    for name, output in zip(names, outputs, strict=True):
        likeliest = output.topk(min(SHOWN, len(output))) if trained.classes else None
        each = (
            ", ".join(
                f"{trained.classes[index]} {100 * value:.1f} %"
                for value, index in zip(*map(Tensor.tolist, likeliest), strict=True)
            )
            if likeliest
            else ""
        )
        told = _prediction(trained, output)
        table.add_row(name, told if isinstance(told, str) else f"{told:.6g}", each)
    return table
