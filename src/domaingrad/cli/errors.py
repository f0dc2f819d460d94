"""Bad input and bad luck end a command with a sentence, not with a traceback."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from domaingrad.engine.errors import is_out_of_memory

from .shown import fail, say

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


@contextmanager
def bad_input(errors: Console) -> Iterator[None]:
    """Print what is wrong, and end with status 2, or 1 where the machine lacks something.

    All errors that name an input at fault are ``ValueError``s; what the system or the memory cannot
    do is told likewise. Any other exception is ours, and keeps its traceback.
    """
    try:
        yield
    except (UnicodeError, RecursionError) as error:
        fail(errors, f"a text or file is nested too deeply or in no known encoding ({error}).")
        raise typer.Exit(2) from None
    except ValueError as error:
        fail(errors, error)
        raise typer.Exit(2) from None
    except OSError as error:
        fail(errors, said(error))
        raise typer.Exit(1) from None
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        fail(errors, f"{NO_MEMORY} ({_first_line(error)}).")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        say(errors, "Interrupted; what was finished is kept, and the same command goes on from it.")
        raise typer.Exit(INTERRUPTED) from None


NO_MEMORY = (
    "the memory does not suffice; use smaller images, batches or models, or fewer runs at a time"
)


def said(error: OSError) -> str:
    """What the system says of a file, and what to do."""
    place = "" if error.filename is None else f"{error.filename}: "
    remedy = {
        errno.ENAMETOOLONG: "choose a shorter path",
        errno.ENOSPC: "make room and give the same command again",
        errno.EROFS: "choose a place that can be written to",
        errno.EACCES: "choose a place of your own, or allow it to be read and written",
        errno.EMFILE: "allow more open files, or fewer runs at a time",
    }.get(error.errno or 0, "mend it and give the same command again")
    return f"{place}{(error.strerror or str(error)).lower()}; {remedy}."


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
