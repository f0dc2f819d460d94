"""A summary as Markdown, for a page of results."""

from __future__ import annotations

from collections.abc import Sequence

from domaingrad.bench.disk import MARK
from domaingrad.bench.escaping import markdown as escaped
from domaingrad.bench.escaping import plain
from domaingrad.bench.protocol import SELECTIONS

from .summary import Summary
from .tables import (
    PAIRED_COLUMNS,
    captions,
    columns,
    how,
    missing_lines,
    paired_texts,
    row_texts,
    side_by_side,
)


def markdown(summary: Summary, command: str) -> str:
    """Every table of a report, with the command that made it."""
    draws = summary.plan.request.draws
    parts = [f"<!-- {MARK} -->", f"    {plain(command)}", *map(escaped, captions(summary))]
    for data in summary.data:
        parts += [
            f"## {escaped(data.data.name)}",
            escaped(f"{how(summary, data)}: {data.data.recipe}; {data.data.chosen}."),
        ]
        for name, rows in data.tables.items():
            parts += [
                f"{SELECTIONS[name].title.capitalize()}: {SELECTIONS[name].summary}.",
                _table(columns(data), [row_texts(data, row, draws) for row in rows]),
            ]
        if len(data.tables) > 1:
            titles = [SELECTIONS[name].title for name in data.tables]
            parts.append(_table(["average by selection method", *titles], list(side_by_side(data))))
        if paired := list(paired_texts(data)):
            parts.append(_table(PAIRED_COLUMNS, paired))
        tables = (section.table for section in data.sections.values())
        parts += [_table(table.columns, table.rows) for table in tables]
    if missing := missing_lines(summary):
        parts += ["## Missing", "\n".join(f"- {escaped(line)}" for line in missing)]
    return "\n\n".join(parts) + "\n"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [[escaped(cell) for cell in cells] for cells in (heads, *rows)]
    lines.insert(1, ["---"] * len(heads))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
