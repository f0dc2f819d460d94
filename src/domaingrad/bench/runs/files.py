"""Directories that one process at a time writes to, and files that are replaced whole."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = "lock"
PART = ".part"
"""End of the name of a file that is being written."""


class RunDirectoryError(ValueError):
    """A directory that cannot be used: what is there, and what to do."""


class FullDiskError(RunDirectoryError):
    """There is no room to go on; what was written before is whole."""


def make(path: Path, *below: str) -> None:
    """Make a directory, and some in it, if missing.

    Raises:
        RunDirectoryError: it cannot be made or written to.
    """
    if path.is_file():
        raise RunDirectoryError(f"{path} is a file; name a directory.")
    try:
        path.mkdir(parents=True, exist_ok=True)
        for name in below:
            (path / name).mkdir(exist_ok=True)
    except OSError as error:
        raise RunDirectoryError(
            f"cannot write to {path}: {error.strerror}. Choose a directory of your own."
        ) from error


@contextmanager
def alone_in(path: Path, other: str, patience: float = 0.0) -> Iterator[None]:
    """Keep other processes out; the lock ends with the process, however that ends.

    Args:
        path: the directory.
        other: who else may be there, and does what.
        patience: seconds to wait for another process to end.

    Raises:
        RunDirectoryError: another process is at work here.
    """
    lock = FileLock(path / LOCK)
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        raise RunDirectoryError(
            f"{other} in {path}. Wait for it, or choose another directory."
        ) from None
    try:
        yield
    finally:
        lock.release()


def replace(path: Path, content: bytes) -> None:
    """Write a file, or what it holds anew: whole, or not at all.

    Raises:
        FullDiskError: the disk is full.
    """
    part = path.with_name(path.name + PART)
    try:
        with room(path.name, path.parent), part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def room(name: str, directory: Path) -> Iterator[None]:
    """Say what a full disk means; what was written before stays as it was.

    Raises:
        FullDiskError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise FullDiskError(
            f"the disk is full: {name} could not be written to {directory}. What was written there "
            f"before is whole; make room and give the same command again."
        ) from error
