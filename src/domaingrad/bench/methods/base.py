"""What a method is: its name, its hyper-parameters, what it requires, and its learner."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, get_type_hints

from domaingrad.bench.domains import DataError
from domaingrad.bench.protocol import Distribution
from domaingrad.bench.schema import SettingError

from .learner import Learner, Setup

Variant = Literal["as meant", "as published"]
"""Which reading of a method whose published code does something else than it says."""

Sharding = Literal["domain by domain", "sample by sample"]
"""How the samples of a step go to several processes: so that a domain lies on few of them, or so
that each has some of every domain."""


class NeverBegunWarning(UserWarning):
    """A run is too short for what its method does late."""


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
    cost: str = "1 pass"
    """Of a step: forward and backward passes over the whole batch, and what comes beside them."""
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
    classes: bool = False
    """Labels that are classes."""
    numbers: bool = False
    """Labels that are numbers."""
    whole: bool = False
    """All samples of the training splits at once, in one step."""
    fp16: bool = True
    """Whether gradients in fp16 will do."""
    sharding: Sharding | None = None
    """How its samples may be dealt to several processes; ``None`` for one process only."""


@dataclass(frozen=True)
class Within:
    """The range of a hyper-parameter, both ends included unless told, and why it is that."""

    why: str
    low: float = -math.inf
    high: float = math.inf
    without: tuple[float, ...] = ()
    """Ends that are not included."""

    def holds(self, value: float) -> bool:
        """Whether a value is in it; NaN never is."""
        return self.low <= value <= self.high and value not in self.without

    def __str__(self) -> str:
        ends = ((self.low, ">", "≥"), (self.high, "<", "≤"))
        told = [
            f"{strict if end in self.without else loose} {end:g}"
            for end, strict, loose in ends
            if math.isfinite(end)
        ]
        return " and ".join(told) or "finite"


Weight = Annotated[
    float, Within("a negative weight rewards what it is to punish", 0, math.inf, (math.inf,))
]
_UPDATE = Within("it is the number of an update", 0)
Updates = Annotated[int, _UPDATE]
"""When something begins; a run that ends before is told so."""
Count = Annotated[int, Within("it is a number of things, of which there is one at least", 1)]
Share = Annotated[float, Within("it is a share", 0, 1)]
_STEPS = Within("nothing moves by steps of size 0", 0, math.inf, (0, math.inf))
Rate = Annotated[float, _STEPS]
MaybeRate = Annotated[float | None, _STEPS]


@dataclass(frozen=True)
class Method(ABC):
    """A method; the fields of a subclass are its hyper-parameters, with their defaults.

    A field of the type ``Annotated[float, Within(WHY, LOW, HIGH)]`` is held to that range.

    Raises:
        SettingError: a hyper-parameter out of its range.
    """

    def __post_init__(self) -> None:
        for name, range_ in _ranges(type(self)).items():
            value = getattr(self, name)
            if value is not None and not range_.holds(value):
                raise SettingError(
                    f"{name} of {self.info.name} should be {range_}, for {range_.why}; "
                    f"found {value}."
                )

    backbone: ClassVar[str | None] = None
    """The only one that it trains, if there is one."""

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
        """What trains one network: ``code`` of the setup and these hyper-parameters.

        Raises:
            DataError, ValueError: as :meth:`verify`.
        """
        self.verify(setup)
        learner: Learner[Any] = self.code(setup, self)
        return learner

    def verify(self, setup: Setup) -> None:
        """See that a run has what the method cannot do without.

        Raises:
            DataError: too few domains; labels that are numbers, for a method of classes.
            ValueError: fp16, for a method whose gradients it cannot hold.

        Warns:
            NeverBegunWarning: a run that ends before what begins at an update.
        """
        for name, range_ in _ranges(type(self)).items():
            if range_ is _UPDATE and (at := getattr(self, name)) >= setup.steps:
                told = f"{name} of {self.info.name} is update {at}, and the run has {setup.steps}"
                warnings.warn(
                    f"{told}: what begins there never does. Give a smaller one.",
                    NeverBegunWarning,
                    stacklevel=3,
                )
        if len(setup.domains) < self.requires.min_domains:
            raise DataError(
                f"{self.info.title} needs {self.requires.min_domains} source domains; found "
                f"{len(setup.domains)} ({', '.join(setup.domains)}). Use the method erm."
            )
        if self.requires.classes and setup.outputs < 2:
            raise DataError(
                f"{self.info.title} needs labels that are classes; found one output, a number. "
                f"Use another method, erm for a start."
            )
        if self.requires.numbers and setup.outputs > 1:
            raise DataError(
                f"{self.info.title} needs labels that are numbers; found {setup.outputs} classes. "
                f"Use logistic, or another method."
            )
        if not self.requires.fp16 and setup.amp.scaler.is_enabled():
            raise ValueError(
                f"{self.info.name} squares or derives gradients, which fp16 cannot hold; use the "
                f"precision bf16-mixed or 32."
            )

    def hyperparameters(self) -> dict[str, Any]:
        """Hyper-parameters by name."""
        return asdict(self)

    def choices(self) -> dict[str, Any]:
        """Those of them that are neither numbers on a scale nor updates."""
        updates = {name for name, range_ in _ranges(type(self)).items() if range_ is _UPDATE}
        return {
            name: value
            for name, value in self.hyperparameters().items()
            if not isinstance(value, float) and name not in updates
        }


@dataclass(frozen=True)
class TwoReadings(Method):
    """A method whose published code does something else than it says, in both readings.

    A subclass has its ``info`` as ``meant``, and what is otherwise in ``published``.
    """

    meant: ClassVar[MethodInfo]
    published: ClassVar[str]

    variant: Variant = "as meant"

    @property
    def info(self) -> MethodInfo:
        """The name, with ``-published`` for the other reading."""
        if self.variant == "as meant":
            return self.meant
        meant = self.meant
        return replace(
            meant,
            name=f"{meant.name}-published",
            title=f"{meant.title} (as published)",
            summary=self.published,
            baselines=("erm", meant.name),
            ablation=True,
        )

    @property
    def as_published(self) -> bool:
        """Whether this is the other reading."""
        return self.variant == "as published"

    def hyperparameters(self) -> dict[str, Any]:
        """Without the reading, which is in the name."""
        return {name: value for name, value in asdict(self).items() if name != "variant"}


@cache
def _ranges(kind: type[Method]) -> dict[str, Within]:
    hints = get_type_hints(kind, include_extras=True)
    return {
        field.name: each
        for field in fields(kind)
        for each in getattr(hints[field.name], "__metadata__", ())
        if isinstance(each, Within)
    }
