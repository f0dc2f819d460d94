"""What a run must not change, and what must not change a run."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path

import torch

import domaingrad


@cache
def code_fingerprint() -> str:
    """What the numbers depend on beside the settings: PyTorch's version and our own code."""
    code = sha256(torch.__version__.encode())
    for path in sorted(Path(domaingrad.__file__).parent.rglob("*.py")):
        if "cli" not in path.parts and "reports" not in path.parts:
            code.update(path.read_bytes())
    return code.hexdigest()[:16]


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
