"""Bad input ends a command with a sentence, not with a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape


@contextmanager
def bad_input(errors: Console) -> Iterator[None]:
    """Print what is wrong, and end with status 2.

    All errors that name an input at fault are ``ValueError``s; any other exception is ours, and
    keeps its traceback.
    """
    try:
        yield
    except ValueError as error:
        errors.print(f"[bold red]Error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None
