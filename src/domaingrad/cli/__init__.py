"""The command line."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, or say what it needs."""
    try:
        from .app import app  # noqa: PLC0415 - the libraries may be missing
    except ModuleNotFoundError as error:
        sys.exit(
            f"The command line needs the package {error.name}, which is not installed. Install "
            f"domaingrad with its extra: pip install 'domaingrad[bench]'."
        )
    app()
