"""What a run must not change: the global generator, threads, what is warned of."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def isolated(seed: int, threads: int | None = None) -> Iterator[None]:
    """A seeded global generator inside, and that many threads; both as before outside."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def noted_warnings() -> Iterator[list[str]]:
    """The first warning of each category goes to the list instead of the terminal."""
    noted: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            yield noted
        finally:
            first = {w.category.__name__: w.message for w in reversed(caught)}
            noted.extend(f"{category}: {message}" for category, message in first.items())
