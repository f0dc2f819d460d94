"""What a method is: a name, its hyper-parameters, and how it turns batches into ``.grad``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from torch import Generator, Tensor, nn
from torch.optim import Optimizer

Batches = Mapping[str, tuple[Tensor, Tensor]]
"""Inputs and labels of each source domain for one step."""

Losses = Callable[[Tensor, Tensor], Tensor]
"""Outputs and labels to one loss per sample."""


class Backward(Protocol):
    """Called once a step."""

    def __call__(self, batches: Batches) -> float:
        """Leave the update in ``.grad`` and return the mean loss of the domains."""


@dataclass(frozen=True)
class Bound:
    """A method bound to one model."""

    backward: Backward
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

    @abstractmethod
    def bind(
        self, model: nn.Module, optimiser: Optimizer, losses: Losses, generator: Generator
    ) -> Bound:
        """Make the method ready to train one model; ``optimiser`` will take the steps."""

    def hyperparameters(self) -> dict[str, Any]:
        """Hyper-parameters by name."""
        return asdict(self)
