"""Plots in files that a person names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from domaingrad.bench.domains import DataError

RESOLUTION = 120
"""Dots an inch of a plot that has dots."""


@contextmanager
def written_to(path: Path) -> Iterator[None]:
    """Tell what to do where a plot cannot be written.

    Raises:
        DataError: the block could not write it.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        raise DataError(
            f"the plot cannot be written to {path} ({error}); name a .png, .svg or .pdf in a "
            f"folder that is there."
        ) from error
