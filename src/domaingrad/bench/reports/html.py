"""The report: one page that needs nothing but a browser, in light and dark."""

from __future__ import annotations

import base64
import platform
import shlex
from collections.abc import Sequence
from importlib.metadata import version

from jinja2 import Environment, PackageLoader, StrictUndefined

from domaingrad.bench.disk import MARK
from domaingrad.bench.escaping import plain
from domaingrad.bench.protocol import SELECTIONS

from .plots import plots_of
from .published import COLUMNS, SOURCE, against_published, not_comparable
from .summary import Summary
from .tables import (
    CAPTION,
    PAIRED,
    PAIRED_COLUMNS,
    SIDE_BY_SIDE,
    by_domain,
    columns,
    how,
    missing_lines,
    named,
    paired_texts,
    row_texts,
    side_by_side,
)

MOST_COLUMNS = 7
"""Held-out domains up to which each is a column of the page's table; more are rows of another."""


def html(summary: Summary, command: Sequence[str], published: bool = False) -> str:
    """The page.

    Args:
        summary: the numbers.
        command: the command line that made them, shown on the page.
        published: whether published numbers stand beside these, where they may.
    """
    environment = Environment(
        loader=PackageLoader("domaingrad.bench.reports"),
        autoescape=True,
        finalize=lambda value: plain(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"data_uri": _data_uri, "named": named}
    return environment.get_template("report.html.j2").render(
        mark=MARK,
        summary=summary,
        plots={data.data.name: plots_of(data) for data in summary.data},
        selections=SELECTIONS,
        columns=columns,
        row_texts=row_texts,
        by_domain=by_domain,
        most_columns=MOST_COLUMNS,
        side_by_side=side_by_side,
        paired_columns=PAIRED_COLUMNS,
        paired_texts=paired_texts,
        how=how,
        published_columns=COLUMNS,
        published_rows=list(against_published(summary)) if published else [],
        published_not=not_comparable(summary) if published else [],
        published_source=SOURCE,
        command=shlex.join(command),
        versions={
            "Python": platform.python_version(),
            "domaingrad": version("domaingrad"),
            "PyTorch": version("torch"),
        },
        missing=missing_lines(summary),
        caption=CAPTION,
        side_by_side_caption=SIDE_BY_SIDE,
        paired=PAIRED,
    )


def _data_uri(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
