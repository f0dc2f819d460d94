"""What a method is: a name, its hyper-parameters, and how it turns batches into ``.grad``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

from torch import Generator, Tensor, nn

Batches = Mapping[str, tuple[Tensor, Tensor]]
"""Inputs and labels of each source domain for one step."""

Losses = Callable[[Tensor, Tensor], Tensor]
"""Outputs and labels to one loss per sample."""


class Backward(Protocol):
    """A method bound to one model."""

    def __call__(self, batches: Batches) -> float:
        """Leave the update in ``.grad`` and return the mean loss of the domains."""


@dataclass(frozen=True)
class Method(ABC):
    """A method; the fields of a subclass are its hyper-parameters, with their defaults."""

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str]

    @abstractmethod
    def bind(self, model: nn.Module, losses: Losses, generator: Generator) -> Backward:
        """Make the method ready to train one model."""

    def hyperparameters(self) -> dict[str, Any]:
        """Hyper-parameters by name."""
        return asdict(self)
