"""A report in all its forms, as files."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from domaingrad.bench.disk import MARK, make, replace, require_ours

from .latex import latex
from .markdown import markdown
from .records import CHECKPOINTS, SELECTED
from .summary import Summary
from .tables import to_csv

MARKS = {
    "report.html": MARK,
    "results.md": MARK,
    "results.tex": MARK,
    "results.csv": ",".join(SELECTED),
    "checkpoints.csv": ",".join(CHECKPOINTS),
}
"""The files of a report, and what each has near its beginning; of tables their columns."""


def require_room_for_report(out: Path) -> None:
    """See that a report would replace nothing but one of ours.

    Raises:
        ForeignFileError: it would.
    """
    require_ours((out / name for name in MARKS), lambda path: MARKS[path.name].encode())


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
        RunDirectoryError: there are files of that name that are not ours, or no such folder.
        OSError: a file that cannot be written.
    """
    from .html import html  # noqa: PLC0415 - draws plots, whose library takes a second

    require_room_for_report(out)
    make(out)
    texts = {
        "results.csv": to_csv(summary.selected),
        "checkpoints.csv": to_csv(summary.checkpoints),
        "results.md": markdown(summary, shlex.join(command)),
        "results.tex": latex(summary),
        "report.html": html(summary, command, published),
    }
    for name, text in texts.items():
        replace(out / name, text)
