"""The report: one page that needs nothing but a browser, in light and dark."""

from __future__ import annotations

import base64
import platform
import shlex
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from .plots import accuracy_plot, numbers_plot, training_plot
from .summary import Summary
from .tables import CAPTION, PAIRED, SELECTION, missing_lines, named, percent, points, probability


def write_html(summary: Summary, command: Sequence[str], path: Path) -> None:
    """Write the page.

    Args:
        summary: the numbers.
        command: the command line that made them, shown on the page.
        path: the file to write.
    """
    environment = Environment(
        loader=PackageLoader("domaingrad.bench.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "data_uri": _data_uri,
        "named": named,
        "points": points,
        "probability": probability,
    }
    page = environment.get_template("report.html.j2").render(
        summary=summary,
        plots={
            data.data_set.name: [
                accuracy_plot(data),
                training_plot(data),
                *([] if data.numbers.empty else [numbers_plot(data)]),
            ]
            for data in summary.data
        },
        command=shlex.join(command),
        versions={
            "Python": platform.python_version(),
            "domaingrad": version("domaingrad"),
            "PyTorch": version("torch"),
        },
        seconds=summary.runs["seconds"].sum(),
        missing=missing_lines(summary),
        selection=SELECTION,
        caption=CAPTION,
        paired=PAIRED,
    )
    path.write_text(page, encoding="utf-8")


def _data_uri(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
