"""A report in all its forms, as files."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from .latex import latex
from .markdown import markdown
from .summary import Summary
from .tables import write_csv


def write_report(
    summary: Summary, out: Path, command: Sequence[str], published: bool = False
) -> None:
    """Write report.html, results.md, results.tex, results.csv and checkpoints.csv.

    Args:
        summary: of a sweep.
        out: the folder, made if missing.
        command: what made it, for the reader.
        published: whether published numbers stand beside.

    Raises:
        OSError: a file that cannot be written.
    """
    from .html import write_html  # noqa: PLC0415 - draws plots, whose library takes a second

    out.mkdir(parents=True, exist_ok=True)
    write_csv(summary, out)
    texts = {
        "results.md": markdown(summary, shlex.join(command)),
        "results.tex": latex(summary),
    }
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8")
    write_html(summary, command, out / "report.html", published)
