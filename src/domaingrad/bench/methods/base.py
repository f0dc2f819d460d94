"""What a method is: its name, its hyper-parameters, what it requires, and its learner."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from domaingrad.bench.protocol import Distribution

from .learner import Learner, Setup

Sharding = Literal["domain by domain", "sample by sample"]
"""How the samples of a step go to several processes: so that a domain lies on few of them, or so
that each has some of every domain."""


@dataclass(frozen=True)
class MethodInfo:
    """What a method is called, and what is said of it."""

    name: str
    """On the command line."""
    title: str
    """In tables."""
    summary: str
    """What it does, in one line."""
    paper: str
    """Where it is from."""
    baselines: tuple[str, ...] = ("erm",)
    """Names of the methods that a report tests it against, trial by trial."""
    ablation: bool = False
    """Whether it is there to see what part of another method matters, and listed with that."""


@dataclass(frozen=True)
class Requires:
    """What a method cannot do without."""

    min_domains: int = 2
    """Source domains."""
    features: bool = False
    """A network whose features can be told from its outputs."""
    sharding: Sharding | None = None
    """How its samples may be dealt to several processes; ``None`` for one process only."""


@dataclass(frozen=True)
class Method(ABC):
    """A method; the fields of a subclass are its hyper-parameters, with their defaults."""

    @property
    @abstractmethod
    def info(self) -> MethodInfo:
        """Its name, and what is said of it."""

    @property
    def search(self) -> Mapping[str, Distribution]:
        """From what a random search draws hyper-parameters, as far as it does."""
        return {}

    @property
    def requires(self) -> Requires:
        """What it cannot do without."""
        return Requires()

    @property
    @abstractmethod
    def code(self) -> type[Learner[Any]] | type[Any]:
        """The class that does the work, whose source is of a run's key."""

    def learner(self, setup: Setup) -> Learner[Any]:
        """What trains one network: ``code`` of the setup and these hyper-parameters."""
        learner: Learner[Any] = self.code(setup, self)
        return learner

    def hyperparameters(self) -> dict[str, Any]:
        """Hyper-parameters by name."""
        return asdict(self)
