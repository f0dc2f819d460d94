"""A summary as terminal table, CSV and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from domaingrad.bench.methods import Method

from .significance import Difference
from .summary import Cell, DataSummary, MethodSummary, Summary

SELECTION = "training-domain validation"
CAPTION = (
    "Accuracy in %, mean±standard error over trials (ddof 0), at the checkpoint with the best "
    "source validation. Sources: on their validation splits; then on each domain while it is held "
    "out."
)

PAIRED = (
    "Paired: differences in held-out accuracy in percentage points, of each trial the mean over "
    "held-out domains, ± standard error (ddof 1); p of a two-sided paired t-test, not corrected "
    "for the number of rows."
)


def named(method: Method) -> str:
    """A method with its hyper-parameters.

    >>> from domaingrad.bench.methods import METHODS
    >>> named(METHODS["and-mask"])
    'AND-mask (tau 1.0)'
    """
    options = ", ".join(hyperparameter(*item) for item in method.hyperparameters().items())
    return f"{method.title} ({options})" if options else method.title


def hyperparameter(name: str, value: object) -> str:
    """A hyper-parameter as tables show it."""
    return f"{name} {round(value, 4) if isinstance(value, float) else value}"


def percent(cell: Cell | None) -> str:
    """A cell as the literature prints it.

    >>> percent(Cell(0.8812, 0.0123, 3))
    '88.1±1.2'
    """
    if cell is None:
        return "–"
    if cell.standard_error is None:
        return f"{100 * cell.mean:.1f}"
    return f"{100 * cell.mean:.1f}±{100 * cell.standard_error:.1f}"


def print_tables(summary: Summary, console: Console) -> None:
    """Print one table a data set, wide enough that no number is cut."""
    for data, table in zip(summary.data, _tables(summary), strict=True):
        needed = console.measure(table, options=console.options.update(max_width=1000)).maximum
        console.width = max(console.width, needed)
        console.print(table)
        console.print(f"  ({data.data_set.recipe.chosen})", soft_wrap=True, highlight=False)
        if data.differences:
            console.print(_paired_table(data))
    console.print(CAPTION, soft_wrap=True)
    if any(data.differences for data in summary.data):
        console.print(PAIRED, soft_wrap=True)


def _paired_table(data: DataSummary) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title="paired over trials", title_justify="left")
    for column in ("method", "minus", "difference", "p", "trials"):
        table.add_column(column, justify="left" if column in {"method", "minus"} else "right")
    for found in data.differences:
        table.add_row(
            data.title(found.method),
            data.title(found.rival),
            points(found),
            probability(found),
            str(found.trials),
        )
    return table


def probability(found: Difference) -> str:
    """The p of a difference.

    >>> probability(Difference("a", "b", -0.0312, 0.0049, 0.00002, 5))
    '< 0.001'
    """
    if found.p is None:
        return "–"
    return "< 0.001" if found.p < 1e-3 else f"{found.p:.3f}"


def points(found: Difference) -> str:
    """A difference in percentage points.

    >>> points(Difference("a", "b", -0.0312, 0.0049, 0.02, 5))
    '-3.1±0.5'
    """
    error = "" if found.standard_error is None else f"±{100 * found.standard_error:.1f}"
    return f"{100 * found.mean:+.1f}{error}"


def _tables(summary: Summary) -> Iterator[Table]:
    for data in summary.data:
        table = Table(
            title=f"{data.data_set.name}: {summary.comparison.trials} trials of {data.steps} steps",
            title_justify="left",
            box=box.SIMPLE_HEAD,
        )
        table.add_column("method", no_wrap=True)
        columns = ["sources", *data.data_set.held_out]
        if len(data.data_set.held_out) > 1:
            columns += ["average", "worst"]
        for column in columns:
            table.add_column(escape(column), justify="right", no_wrap=True)
        for row in data.methods:
            table.add_row(*_texts(data, row))
        yield table


def _texts(data: DataSummary, row: MethodSummary) -> list[str]:
    texts = [named(row.method), percent(row.sources)]
    texts += [percent(row.held_out[domain]) for domain in data.data_set.held_out]
    if len(data.data_set.held_out) > 1:
        texts.append("–" if row.average is None else f"{100 * row.average:.1f}")
        texts.append("–" if row.worst is None else f"{100 * row.worst[1]:.1f} ({row.worst[0]})")
    return texts


def missing_lines(summary: Summary) -> list[str]:
    """One line for each cell that has fewer trials than planned."""
    return [
        f"{data.data_set.name}, {row.method.title}, held out {domain}: {len(causes)} of "
        f"{summary.comparison.trials} trials ({'; '.join(dict.fromkeys(causes))})"
        for data in summary.data
        for row in data.methods
        for domain, causes in row.missing.items()
    ]


def results_csv(summary: Summary, path: Path) -> None:
    """Write one line per finished run, at its selected checkpoint."""
    summary.runs.to_csv(path, index=False)


def to_json(summary: Summary) -> str:
    """Everything the tables say, and the single runs."""
    document = {
        "selection": SELECTION,
        "seed": summary.comparison.seed,
        "trials": summary.comparison.trials,
        "data": {
            data.data_set.name: {
                "steps": data.steps,
                "recipe": data.recipe,
                "settings": data.data_set.recipe.chosen,
                "methods": {row.method.name: _row_document(row) for row in data.methods},
                "paired": [asdict(found) for found in data.differences],
            }
            for data in summary.data
        },
        "runs": summary.runs.to_dict("records"),
        "missing": missing_lines(summary),
        "warnings": dict(summary.warnings),
    }
    return json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False)


def _row_document(row: MethodSummary) -> dict[str, Any]:
    return {
        "hyperparameters": row.method.hyperparameters(),
        "source_validation": _cell_document(row.sources),
        "held_out": {domain: _cell_document(cell) for domain, cell in row.held_out.items()},
        "average": row.average,
        "worst": None if row.worst is None else {"domain": row.worst[0], "mean": row.worst[1]},
    }


def _cell_document(cell: Cell | None) -> dict[str, Any] | None:
    return None if cell is None else asdict(cell)
