"""When Ctrl-C takes effect, and what ends a process likewise."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupted_after() -> Iterator[None]:
    """It takes effect after the block; twice, at once.

    For within, the exception may be lost in a callback, or PyTorch's capture may take it for a
    fault of the model. What leaves the process with an exit, as it does unless asked otherwise,
    still does at once. One that was lost before, and that its handler remembers as ``heard``, takes
    effect before the block.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    known = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    before = {each: handler for each, handler in known.items() if callable(handler)}
    heard = []
    if any(getattr(handler, "heard", False) for handler in before.values()):
        raise KeyboardInterrupt

    def restore() -> None:
        for each, handler in before.items():
            signal.signal(each, handler)

    def hear(number: int, _: FrameType | None) -> None:
        heard.append(number)
        restore()

    try:
        for each in before:
            signal.signal(each, hear)
        yield
    finally:
        restore()
    for number in heard:
        signal.raise_signal(number)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """It has no effect."""
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(each, signal.SIG_IGN) for each in signals]
    try:
        yield
    finally:
        for each, handler in zip(signals, before, strict=True):
            signal.signal(each, handler)
