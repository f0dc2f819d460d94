"""The command line."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, or say what it needs."""
    given = [word for word in sys.argv[1:] if not word.startswith("-")][:1]
    try:
        from .app import app_with  # noqa: PLC0415 - the libraries may be missing

        app = app_with(given)
    except ModuleNotFoundError as error:
        sys.exit(
            f"The command line needs the package {error.name}, which is not installed. Install "
            f"domaingrad with its extra: pip install 'domaingrad[bench]'."
        )
    app()
