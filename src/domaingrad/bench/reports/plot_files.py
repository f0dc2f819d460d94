"""Plots in files that a person names."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from domaingrad.bench.disk import MARK, require_ours, writing
from domaingrad.bench.domains import DataError

RESOLUTION = 120
"""Dots an inch of a plot that has dots."""


def require_room_for_plot(path: Path) -> None:
    """See that a plot would replace nothing but one of ours.

    Raises:
        ForeignFileError: it would.
    """
    require_ours([path], lambda _: MARK.encode())


@contextmanager
def written_to(path: Path) -> Iterator[Path]:
    """Where to draw a plot that is to be at a path; names in it are no formulas of TeX.

    Raises:
        ForeignFileError: a file is there that is no plot of ours.
        DataError: the block could not write it, and what to do.
    """
    import matplotlib as mpl  # noqa: PLC0415 - takes a while

    require_room_for_plot(path)
    try:
        with (
            mpl.rc_context({"text.parse_math": False}),
            warnings.catch_warnings(action="ignore", category=UserWarning),  # of letters, of room
            writing(path, path.suffix) as (part, file),
        ):
            yield part
            file.seek(0, 2)
            # After its end, where whoever reads pictures does not look.
            file.write((f"<!-- {MARK} -->\n" if path.suffix == ".svg" else f"% {MARK}\n").encode())
    except (OSError, ValueError, MemoryError) as error:
        raise DataError(
            f"the plot cannot be written to {path} ({error or type(error).__name__}); name a .png, "
            f".svg or .pdf in a folder that is there."
        ) from error
