"""One run: one method, one held-out domain, one trial, from names to numbers."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import ExponentialLR, LRScheduler, OneCycleLR

import domaingrad
from domaingrad.bench.domains import DATA_SETS, Recipe, Task, correct, losses
from domaingrad.bench.methods import ALL_METHODS, Batches
from domaingrad.bench.protocol import Split, draw, generator_of, seed_of, split_domain
from domaingrad.inspect import sign_agreement

EVALUATED_AT_ONCE = 2**22
"""Numbers in the inputs that pass through a model together when it is evaluated."""
DECAY = 0.9995
"""Factor on the learning rate per step of the exponential schedule."""


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
class Checkpoint:
    """What is known of the sources after ``step`` steps."""

    step: int
    loss: float | None
    """Mean loss of the source domains on the last batch, ``None`` where it is not finite."""
    train_accuracy: float
    val_accuracy: float
    """Accuracies on the sources' splits, the mean over the source domains."""
    agreement: float
    """Share of gradient components on whose sign all source domains agree."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """What the method itself has to tell (a learned ratio, say)."""


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
    """The sealed part of a run: accuracy on the held-out domain by checkpoint."""

    key: str
    accuracies: tuple[float, ...]


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
    with _isolated(seed_of(*run, "initialisation")), _noted_warnings() as warned:
        domains = data_set.make(generator_of(*trial, "data"))
        splits = {
            name: split_domain(domain, generator_of(*trial, "split", name))
            for name, domain in domains.items()
        }
        held_out = splits.pop(config.held_out)
        sources = {name: splits[name] for name in data_set.sources if name in splits}
        model = data_set.build_model(domains)
        loss = partial(losses, data_set.task)
        optimiser, schedule = _optimiser(model, data_set.recipe, config.steps)
        method = replace(ALL_METHODS[config.method], **config.hyperparameters)
        bound = method.bind(model, optimiser, loss, generator_of(*run, "method"))
        next_batches = partial(
            _batches, sources, data_set.recipe.batch, generator_of(*run, "batches")
        )
        next_probe = partial(
            _batches, sources, data_set.recipe.batch, generator_of(*run, "agreement")
        )
        marks = _checkpoint_steps(config.steps, data_set.recipe.checkpoints)
        checkpoints: list[Checkpoint] = []
        scores: list[float] = []
        for step in range(1, config.steps + 1):
            value = bound.backward(next_batches())
            if not math.isfinite(value):
                warnings.warn("the loss is not finite: the run has diverged", stacklevel=1)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
            if step in marks:
                probe = (loss(model(x), y).mean() for x, y in next_probe().values())
                accuracy = partial(_mean_accuracy, model, data_set.task)
                model.eval()
                checkpoints.append(
                    Checkpoint(
                        step=step,
                        loss=value if math.isfinite(value) else None,
                        train_accuracy=accuracy([split.train for split in sources.values()]),
                        val_accuracy=accuracy([split.val for split in sources.values()]),
                        agreement=sign_agreement(model, probe),
                        numbers=bound.numbers(),
                    )
                )
                scores.append(accuracy([held_out.train]))
                model.train()
            on_progress(step, checkpoints[-1] if checkpoints else None)
    record = RunRecord(config, tuple(checkpoints), time.perf_counter() - started, tuple(warned))
    return record, HeldOutRecord(config.key, tuple(scores))


@contextmanager
def _isolated(seed: int) -> Iterator[None]:
    """One thread and a seeded global generator inside, both as before outside."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _noted_warnings() -> Iterator[list[str]]:
    """The first warning of each category goes to the list instead of the terminal."""
    noted: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            yield noted
        finally:
            first = {w.category.__name__: w.message for w in reversed(caught)}
            noted.extend(f"{category}: {message}" for category, message in first.items())


def _optimiser(model: nn.Module, recipe: Recipe, steps: int) -> tuple[Optimizer, LRScheduler]:
    optimiser: Optimizer
    if recipe.optimiser == "adam":
        optimiser = Adam(
            model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )
    else:
        optimiser = SGD(model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    if recipe.schedule == "one-cycle":
        return optimiser, OneCycleLR(optimiser, recipe.learning_rate, total_steps=steps + 1)
    return optimiser, ExponentialLR(optimiser, DECAY)


def _checkpoint_steps(steps: int, most: int) -> frozenset[int]:
    count = min(most, steps)
    return frozenset(round(steps * (i + 1) / count) for i in range(count))


def _batches(sources: Mapping[str, Split], size: int, generator: torch.Generator) -> Batches:
    return {name: draw(split.train, size, generator) for name, split in sources.items()}


@torch.no_grad()
def _mean_accuracy(
    model: nn.Module, task: Task, parts: Sequence[tuple[torch.Tensor, torch.Tensor]]
) -> float:
    """Accuracy on each part, and their mean."""
    accuracies = [
        torch.cat([correct(task, model(x), y) for x, y in _in_pieces(inputs, labels)])
        for inputs, labels in parts
    ]
    return torch.stack([right.float().mean() for right in accuracies]).mean().item()


def _in_pieces(
    inputs: torch.Tensor, labels: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    rows = max(1, EVALUATED_AT_ONCE // max(1, inputs[0].numel()))
    return zip(inputs.split(rows), labels.split(rows), strict=True)  # type: ignore[no-untyped-call]
