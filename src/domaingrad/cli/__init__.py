"""The command line."""

from __future__ import annotations

import io
import signal
import sys


def main() -> None:
    """Run the command line, or say what it needs; whoever ends it, it ends as after Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # which may know fewer letters than names have
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        from .app import app, end_with_first  # noqa: PLC0415 - the libraries may be missing
    except ModuleNotFoundError as error:
        sys.exit(
            f"The command line needs the package {error.name}, which is not installed. Install "
            f"domaingrad with its extra: pip install 'domaingrad[bench]'."
        )
    except KeyboardInterrupt:
        sys.exit(130)
    end_with_first()
    app()
