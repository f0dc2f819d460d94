"""A summary as Markdown, for a page of results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .summary import DataSummary, MethodSummary, Summary
from .tables import CAPTION, PAIRED, missing_lines, named, percent, points, probability


def markdown(summary: Summary, command: str) -> str:
    """Every table of a report, with the command that made it."""
    parts = [f"`{command}`", CAPTION]
    if any(data.differences for data in summary.data):
        parts.append(PAIRED)
    for data in summary.data:
        parts += [
            f"## {data.data_set.name}",
            f"{summary.comparison.trials} trials of {data.steps} steps, seed "
            f"{summary.comparison.seed}: {data.recipe}; {data.data_set.recipe.chosen}.",
            "\n".join(_scores(data)),
        ]
        if data.differences:
            parts.append("\n".join(_paired(data)))
    missing = missing_lines(summary)
    if missing:
        parts += ["## Missing", "\n".join(f"- {line}" for line in missing)]
    return "\n\n".join(parts) + "\n"


def _scores(data: DataSummary) -> Iterator[str]:
    domains = data.data_set.held_out
    several = len(domains) > 1
    yield from _head(
        ["method", "sources", *(f"held out: {d}" for d in domains)]
        + (["average", "worst"] if several else [])
    )
    for row in data.methods:
        cells = [named(row.method), percent(row.sources)]
        cells += [percent(row.held_out[domain]) for domain in domains]
        yield _row(cells + (_overall(row) if several else []))


def _overall(row: MethodSummary) -> list[str]:
    average = "–" if row.average is None else f"{100 * row.average:.1f}"
    worst = "–" if row.worst is None else f"{100 * row.worst[1]:.1f} ({row.worst[0]})"
    return [average, worst]


def _paired(data: DataSummary) -> Iterator[str]:
    yield from _head(["paired", "minus", "difference", "p", "trials"])
    for found in data.differences:
        titles = [data.title(found.method), data.title(found.rival)]
        yield _row([*titles, points(found), probability(found), str(found.trials)])


def _head(columns: Sequence[str]) -> list[str]:
    return [_row(columns), _row(["---"] * len(columns))]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
