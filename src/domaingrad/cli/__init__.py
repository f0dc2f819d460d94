"""The command line."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

STARTED_BY = "DOMAINGRAD_FIRST"
"""Set where another process of ours has started this one, and ends it with itself."""


class Interrupt:
    """Ends a command, and remembers it: what is raised within a callback is lost."""

    heard = False

    def __call__(self, _: int, __: object) -> None:
        """Raise what Ctrl-C does."""
        self.heard = True
        raise KeyboardInterrupt


def unraisable(lost: Any) -> None:
    """Show what a callback has lost, but for an interrupt, which is remembered."""
    if lost.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(lost)


def main() -> None:
    """Run the command line, or say what it needs; whoever ends it, it ends as after Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # which may know fewer letters than names have
            stream.reconfigure(errors="backslashreplace")
    for each in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(each) is not signal.SIG_IGN:  # as a shell has it in the background
            signal.signal(each, Interrupt())
    sys.unraisablehook = unraisable
    try:
        _loaded()()
    except KeyboardInterrupt:  # while things are imported, or the command line is read
        sys.exit(130)


def _loaded() -> Callable[[], None]:
    given = [word for word in sys.argv[1:] if not word.startswith("-")][:1]
    try:
        from .app import app_with  # noqa: PLC0415 - the libraries may be missing

        app = app_with(given)
        if STARTED_BY in os.environ:
            from domaingrad.bench import end_with_first  # noqa: PLC0415 - takes its time

            end_with_first()
    except ModuleNotFoundError as error:
        sys.exit(
            f"The command line needs the package {error.name}, which is not installed. Install "
            f"domaingrad with its extra: pip install 'domaingrad[bench]'."
        )
    return app
