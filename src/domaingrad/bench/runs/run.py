"""One run of a comparison: one method, one held-out domain, one trial, from names to numbers."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

import domaingrad
from domaingrad.bench.domains import DATA_SETS
from domaingrad.bench.methods import ALL_METHODS
from domaingrad.bench.protocol import generator_of, seed_of

from .fitting import Checkpoint, Fit, HeldOutScores, Parts


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run's numbers."""

    data: str
    method: str
    held_out: str
    trial: int
    seed: int
    steps: int
    hyperparameters: Mapping[str, Any]
    recipe: str
    """The recipe in words; a changed recipe makes another run."""
    code: str
    """Fingerprint of the code (:func:`code_fingerprint`); changed code makes another run."""

    @property
    def key(self) -> str:
        """Name of the run by its content."""
        return sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class RunRecord:
    """A finished run, without its held-out scores."""

    config: RunConfig
    checkpoints: tuple[Checkpoint, ...]
    seconds: float
    warnings: tuple[str, ...]
    """What the run warned of, each once."""


@dataclass(frozen=True)
class HeldOutRecord:
    """The sealed part of a run: scores on the held-out domain by checkpoint."""

    key: str
    scores: tuple[HeldOutScores, ...]


@cache
def code_fingerprint() -> str:
    """What the numbers depend on beside the settings: PyTorch's version and our own code."""
    code = sha256(torch.__version__.encode())
    for path in sorted(Path(domaingrad.__file__).parent.rglob("*.py")):
        if "cli" not in path.parts and "reports" not in path.parts:
            code.update(path.read_bytes())
    return code.hexdigest()[:16]


OnProgress = Callable[[int, Checkpoint | None], None]
"""Called after each step with the number of steps done and the latest checkpoint."""


def train(config: RunConfig, on_progress: OnProgress) -> tuple[RunRecord, HeldOutRecord]:
    """Train one model as ``config`` says, on one thread, the same to the last bit each time.

    Data and splits depend on seed, data set and trial, initialisation and batches on the held-out
    domain too; none of them on the method, so that methods are compared in pairs.
    """
    started = time.perf_counter()
    data_set = DATA_SETS[config.data]
    trial = (config.seed, config.data, f"trial {config.trial}")
    run = (*trial, f"held out {config.held_out}")
    with isolated(seed_of(*run, "initialisation"), threads=1), noted_warnings() as warned:
        data = data_set.draw(generator_of(*trial, "data"))
        fit = Fit(
            data,
            Parts.of(data, config.held_out, trial),
            data_set.build_model(data),
            replace(ALL_METHODS[config.method], **config.hyperparameters),
            replace(data_set.recipe, steps=config.steps),
            run,
        )
        checkpoints: list[Checkpoint] = []
        sealed: list[HeldOutScores] = []
        for step in range(1, config.steps + 1):
            if fit.advance():
                seen, hidden = fit.checkpoint()
                assert hidden is not None
                checkpoints.append(seen)
                sealed.append(hidden)
            on_progress(step, checkpoints[-1] if checkpoints else None)
    record = RunRecord(config, tuple(checkpoints), time.perf_counter() - started, tuple(warned))
    return record, HeldOutRecord(config.key, tuple(sealed))


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
