"""A summary as tables: for the terminal, and what all forms share."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from domaingrad.bench.domains import Task
from domaingrad.bench.escaping import csv_cell, terminal
from domaingrad.bench.methods import Method
from domaingrad.bench.protocol import SELECTIONS

from .significance import Difference
from .summary import Cell, DataSummary, MethodSummary, Summary

if TYPE_CHECKING:
    import pandas as pd

CAPTION = (
    "Accuracy in % (R² where labels are numbers; or the metric that the recipe names), "
    "mean±standard error over trials (ddof 0), of the draw and checkpoint that the selection "
    "method picks. Average and worst: over the domains held out in turn. Sources: on their "
    "validation splits; then on each domain while it is held out."
)

PARTIAL = "* Runs are missing, as listed: from fewer trials, or selected from fewer draws."

PAIRED = (
    "Paired: differences in held-out score (accuracy: in percentage points), of each trial the "
    "mean over held-out domains, ± standard error (ddof 1); p of a two-sided paired t-test, not "
    "corrected for the number of rows."
)

SIDE_BY_SIDE = (
    "Mean over held-out domains by selection method. An oracle selects by the held-out domain "
    "itself, so its score is no estimate for a new domain."
)


def named(method: Method, draws: int = 1) -> str:
    """A method with its hyper-parameters that can be searched, if they are not.

    >>> from domaingrad.bench.methods import METHODS
    >>> named(METHODS["and-mask"])
    'AND-mask (tau 1.0)'
    """
    if draws > 1:
        return method.info.title
    values = method.hyperparameters()
    options = ", ".join(hyperparameter(name, values[name]) for name in method.search)
    return f"{method.info.title} ({options})" if options else method.info.title


def hyperparameter(name: str, value: object) -> str:
    """A hyper-parameter as tables show it.

    >>> hyperparameter("tau", 1 / 3), hyperparameter("learning_rate", 1e-6)
    ('tau 0.3333', 'learning_rate 1e-06')
    """
    return f"{name} {(round(value, 4) or value) if isinstance(value, float) else value}"


def score(cell: Cell | None, task: Task = "classification") -> str:
    """A cell as the literature prints it.

    >>> score(Cell(0.8812, 0.0123, 3)), score(Cell(0.8812, 0.0123, 3), "regression")
    ('88.1±1.2', '0.881±0.012')
    """
    if cell is None:
        return "–"
    error = "" if cell.standard_error is None else f"±{plain(cell.standard_error, task)}"
    return f"{plain(cell.mean, task)}{error}"


def plain(value: float | None, task: Task) -> str:
    """A score without its error."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "−∞"
    return f"{value:.3f}" if task == "regression" else f"{100 * value:.1f}"


def columns(data: DataSummary) -> list[str]:
    """Heads of a table's columns."""
    held_out = [f"held out: {domain}" for domain in data.data.held_out]
    several = ["average", "worst"] if len(held_out) > 1 else []
    return ["method", *several, "sources", *held_out]


def row_texts(data: DataSummary, row: MethodSummary, draws: int) -> list[str]:
    """Cells of a table's row."""
    task = data.data.task
    texts = [named(row.method, draws)]
    if len(data.data.held_out) > 1:
        worst = "–" if row.worst is None else f"{plain(row.worst[1], task)} ({row.worst[0]})"
        texts += [score(row.average, task) + ("*" if row.partial else ""), worst]
    texts += [score(row.sources, task)]
    return texts + [
        score(row.held_out[domain], task) + ("*" if domain in row.partial else "")
        for domain in data.data.held_out
    ]


def by_domain(data: DataSummary, rows: Sequence[MethodSummary]) -> Iterator[list[str]]:
    """The held-out domains as rows and the methods as columns, where there are many domains."""
    for domain in data.data.held_out:
        marks = ["*" if domain in row.partial else "" for row in rows]
        cells = (score(row.held_out[domain], data.data.task) for row in rows)
        yield [domain, *map("".join, zip(cells, marks, strict=True))]


def side_by_side(data: DataSummary) -> Iterator[list[str]]:
    """A row a method: its average by selection method."""
    for rows in zip(*data.tables.values(), strict=True):
        yield [rows[0].method.info.title, *(score(row.average, data.data.task) for row in rows)]


def paired_texts(data: DataSummary) -> Iterator[list[str]]:
    """Rows of the paired differences of the first selection method."""
    for found in data.differences[data.headline.name]:
        yield [
            data.title(found.method),
            data.title(found.baseline),
            points(found, data.data.task),
            probability(found),
            str(found.trials),
        ]


PAIRED_COLUMNS = ("method", "minus", "difference", "p", "trials")


def how(summary: Summary, data: DataSummary) -> str:
    """How many runs of what."""
    request = summary.plan.request
    trials = f"{request.trials} {'trial' if request.trials == 1 else 'trials'}"
    draws = f" of {request.draws} draws" if request.draws > 1 else ""
    return f"{trials}{draws} of {data.data.steps} steps, seed {request.seed}"


def print_tables(summary: Summary, console: Console) -> None:
    """Print the tables of each data set, wide enough that no number is cut."""
    draws = summary.plan.request.draws
    for data in summary.data:
        title = f"{data.data.name}: {how(summary, data)}; {data.headline.title}"
        table = _table(title, columns(data))
        for row in data.methods:
            table.add_row(*map(terminal, row_texts(data, row, draws)))
        print_table(table, console)
        console.print(terminal(f"  ({data.data.chosen})"), soft_wrap=True)
        if len(data.tables) > 1:
            titles = [SELECTIONS[name].title for name in data.tables]
            other = _table("by selection method", ["method", *titles])
            for texts in side_by_side(data):
                other.add_row(*map(terminal, texts))
            print_table(other, console)
        if data.differences[data.headline.name]:
            paired = _table("paired over trials", PAIRED_COLUMNS)
            paired.columns[1].justify = "left"
            for texts in paired_texts(data):
                paired.add_row(*map(terminal, texts))
            print_table(paired, console)
        for section in data.sections.values():
            more = _table(section.table.title, section.table.columns)
            for column in more.columns[: section.table.left]:
                column.justify = "left"
            for cells in section.table.rows:
                more.add_row(*map(terminal, cells))
            print_table(more, console)
    for caption in captions(summary):
        console.print(terminal(caption), soft_wrap=True)


def captions(summary: Summary) -> list[str]:
    """What the tables of a summary mean."""
    found = [CAPTION]
    if summary.missing:
        found.append(PARTIAL)
    if len(summary.plan.request.selections) > 1:
        found.append(SIDE_BY_SIDE)
    if any(data.differences[data.headline.name] for data in summary.data):
        found.append(PAIRED)
    sections = (section for data in summary.data for section in data.sections.values())
    return [*found, *dict.fromkeys(section.table.caption for section in sections)]


def _table(title: str, heads: Sequence[str]) -> Table:
    table = Table(title=terminal(title, "table.title"), title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column(terminal(heads[0]), no_wrap=True)
    for head in heads[1:]:
        table.add_column(terminal(head.removeprefix("held out: ")), justify="right", no_wrap=True)
    return table


def print_table(table: Table, console: Console) -> None:
    """Print a table, wide enough that no number is cut."""
    needed = console.measure(table, options=console.options.update(max_width=1000)).maximum
    console.width = max(console.width, needed)
    console.print(table)


def probability(found: Difference) -> str:
    """The p of a difference.

    >>> probability(Difference("a", "b", -0.0312, 0.0049, 0.00002, 5))
    '< 0.001'
    """
    if found.p is None:
        return "–"
    return "< 0.001" if found.p < 1e-3 else f"{found.p:.3f}"


def points(found: Difference, task: Task = "classification") -> str:
    """A difference in percentage points.

    >>> points(Difference("a", "b", -0.0312, 0.0049, 0.02, 5))
    '-3.1±0.5'
    """
    error = "" if found.standard_error is None else f"±{plain(found.standard_error, task)}"
    return f"{'+' if found.mean >= 0 else ''}{plain(found.mean, task)}{error}"


def missing_lines(summary: Summary) -> list[str]:
    """One line for each cell that has fewer runs than planned."""
    titles = {row.method.info.name: row.method.info.title for row in summary.data[0].methods}
    return [
        f"{data}, {titles[method]}, held out {held_out}: {len(causes)} of {planned} runs "
        f"({'; '.join(dict.fromkeys(causes))})"
        for (data, method, held_out), (planned, causes) in summary.missing.items()
    ]


def to_csv(rows: pd.DataFrame) -> str:
    """Rows for a spreadsheet, which takes no formula from them."""
    names = rows.select_dtypes(exclude="number").columns
    text: str = rows.assign(**{n: rows[n].map(csv_cell) for n in names}).to_csv(index=False)
    return text


def to_json(summary: Summary) -> str:
    """Everything the tables say, and the single runs."""
    request = summary.plan.request
    document = {
        "selections": list(request.selections),
        "seed": request.seed,
        "trials": request.trials,
        "draws": request.draws,
        "data": {
            data.data.name: {
                "task": data.data.task,
                "steps": data.data.steps,
                "recipe": data.data.recipe,
                "settings": data.data.chosen,
                "tables": {
                    name: {row.method.info.name: _row_document(row) for row in rows}
                    for name, rows in data.tables.items()
                },
                "paired": {
                    name: [asdict(each) for each in found]
                    for name, found in data.differences.items()
                },
            }
            for data in summary.data
        },
        **{
            name: [
                row
                for data in summary.data
                if name in data.sections
                for row in data.sections[name].document
            ]
            for name in dict.fromkeys(name for data in summary.data for name in data.sections)
        },
        "selected": summary.selected.to_dict("records"),
        "missing": missing_lines(summary),
        "warnings": dict(summary.warnings),
    }
    return json_of(document)


def json_of(document: Any) -> str:
    """For people and programs; JSON has no infinity and no NaN, which become null."""
    return json.dumps(_finite(document), indent=2, allow_nan=False, ensure_ascii=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _row_document(row: MethodSummary) -> dict[str, Any]:
    return {
        "source_validation": _cell_document(row.sources),
        "held_out": {domain: _cell_document(cell) for domain, cell in row.held_out.items()},
        "average": _cell_document(row.average),
        "worst": None if row.worst is None else {"domain": row.worst[0], "mean": row.worst[1]},
    }


def _cell_document(cell: Cell | None) -> dict[str, Any] | None:
    return None if cell is None else asdict(cell)
