"""What a piece of code asks of the device: kernels launched, waits of the host and their places."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from .device import observe

LIBRARY = "/domaingrad/"


@dataclass
class Counts:
    """Kernels by operator, and synchronizations by cause and place."""

    kernels: Counter[str] = field(default_factory=Counter)
    waits: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def launches(self) -> int:
        return self.kernels.total()

    @property
    def synchronizations(self) -> int:
        return self.waits.total()

    def __str__(self) -> str:
        """The most frequent kernels, and all waits."""
        kernels = ", ".join(f"{name} {n}" for name, n in self.kernels.most_common(12))
        waits = "".join(f"\n  {n} × {what} at {at}" for (what, at), n in self.waits.most_common())
        return f"kernels: {kernels}\nsynchronizations:{waits or ' none'}"


@contextmanager
def counted() -> Iterator[Counts]:
    """Count until the end of the block, in all threads."""
    counts = Counts()

    def observer(event: str, what: str) -> None:
        if event == "launch":
            counts.kernels[what] += 1
        elif event == "sync":
            counts.waits[what, _place()] += 1

    observe(observer)
    try:
        yield counts
    finally:
        observe(None)


def _place() -> str:
    """The innermost line of the library's own on the stack; backward has a thread for itself."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if LIBRARY in file:
            return f"{file.rpartition(LIBRARY)[2]}:{frame.f_lineno} {frame.f_code.co_name}"
        if Path(file).name.startswith("test_"):
            return f"{Path(file).name}:{frame.f_lineno}"
        frame = frame.f_back
    return "backward"
