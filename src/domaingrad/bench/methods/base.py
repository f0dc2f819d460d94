"""What a method is: a name, its hyper-parameters, and how it turns batches into ``.grad``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Generator, Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from domaingrad.bench.protocol import Distribution

Batches = Mapping[str, tuple[Tensor, Tensor]]
"""Inputs and labels of each source domain for one step; this process's part of them."""

Dealt = Literal["domain by domain", "sample by sample", "one process"]
"""How the samples of a step go to several processes: so that a domain lies on few of them, so that
each has some of every domain, or not at all."""

Losses = Callable[[Tensor, Tensor], Tensor]
"""Outputs and labels to one loss per sample."""


class Backward(Protocol):
    """Called once a step, on every process with its part of the samples."""

    def __call__(self, batches: Batches) -> Tensor:
        """Leave the update in ``.grad``, scaled; return the mean loss of these samples."""


class Stateful(Protocol):
    """What has to be kept to go on with the same numbers."""

    def state_dict(self) -> dict[str, Any]:
        """All of it."""

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Put it back."""


@dataclass(frozen=True)
class Bound:
    """A method bound to one model."""

    backward: Backward
    state: Stateful | None = None
    """What a checkpoint must hold of the method, beside model and optimiser."""
    numbers: Callable[[], Mapping[str, float]] = dict
    """What the method itself has to tell at a checkpoint, by name (a learned ratio, say)."""


@dataclass(frozen=True)
class Method(ABC):
    """A method; the fields of a subclass are its hyper-parameters, with their defaults."""

    @property
    @abstractmethod
    def name(self) -> str:
        """On the command line."""

    @property
    @abstractmethod
    def title(self) -> str:
        """In tables."""

    @property
    @abstractmethod
    def summary(self) -> str:
        """What it does, in one line."""

    @property
    @abstractmethod
    def paper(self) -> str:
        """Where it is from."""

    @property
    def rivals(self) -> tuple[str, ...]:
        """Names of the methods that a report tests it against, trial by trial."""
        return ("erm",)

    @property
    def fewest_sources(self) -> int:
        """How many source domains it takes."""
        return 2

    @property
    def dealt(self) -> Dealt:
        """How the samples of a step go to several processes, if the method knows of such."""
        return "one process"

    @abstractmethod
    def bind(
        self,
        model: nn.Module,
        optimiser: Optimizer,
        losses: Losses,
        generator: Generator,
        scaler: GradScaler,
    ) -> Bound:
        """Make the method ready to train one model.

        Args:
            model: the model, in DistributedDataParallel where there are several processes.
            optimiser: what will take the steps.
            losses: one loss per sample.
            generator: of whatever the method draws.
            scaler: of losses before the backward pass; one that is not enabled leaves them alone.
        """

    def hyperparameters(self) -> dict[str, Any]:
        """Hyper-parameters by name."""
        return asdict(self)

    @property
    def search(self) -> Mapping[str, Distribution]:
        """From what a random search draws them, as far as it does."""
        return {}


def pooled(batches: Batches) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, labels and the domain of each sample, counted from 0, of all domains together."""
    inputs = torch.cat([x for x, _ in batches.values()])
    labels = torch.cat([y for _, y in batches.values()])
    sizes = torch.tensor([len(y) for _, y in batches.values()], device=labels.device)
    return inputs, labels, torch.arange(len(sizes), device=labels.device).repeat_interleave(sizes)
