"""How a command ends that several processes carry out: said once on each node."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
import typer
from rich.console import Console

from domaingrad.bench import FailedElsewhereError, LostProcessError

from .errors import INTERRUPTED
from .shown import fail, say

MOMENT = 0.5
"""Seconds in which a process that is killed is gone for good."""


def is_first() -> bool:
    """Whether this process is the only one, or the first of all."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def is_first_on_node() -> bool:
    """Whether no other process of this node speaks for this one."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


@contextmanager
def ended_together(errors: Console) -> Iterator[None]:
    """Say why training ends, on one process of each node.

    A process that leaves because of what another one has said leaves with status 0, so that whoever
    watches the processes sees which one failed.

    Raises:
        typer.Exit: in the place of what ended the training.
    """
    started_by = os.getppid()
    speaks = is_first_on_node()
    try:
        yield
    except KeyboardInterrupt:
        if speaks:
            say(errors, "Interrupted; the same command goes on from the last checkpoint.")
        raise typer.Exit(INTERRUPTED) from None
    except FailedElsewhereError as error:
        if speaks:
            fail(errors, f"on another process: {error}")
        raise typer.Exit(2 if speaks else 0) from None
    except LostProcessError as error:
        # The one that would speak for this node may be the one that is lost.
        if speaks or _is_gone(started_by):
            fail(errors, error)
        raise typer.Exit(1) from None


def _is_gone(parent: int) -> bool:
    """Whether this process has lost its parent; its connections end a moment before that shows."""
    deadline = time.monotonic() + MOMENT
    while os.getppid() == parent and time.monotonic() < deadline:
        time.sleep(MOMENT / 50)
    return os.getppid() != parent
