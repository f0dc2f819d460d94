"""Data of several domains, as training takes it: samples, classes, and how inputs are prepared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.utils.data import TensorDataset

from domaingrad.bench.schema import Option, Whole, settings

from .recipes import AUGMENTATIONS, Recipe

HALF = 32
"""Characters of the half of a fingerprint."""

Task = Literal["classification", "regression", "signed-regression"]
"""Classes with cross-entropy; numbers with half the squared error; or labels −1 and 1 with half the
squared error, told by the sign."""

Domains = Mapping[str, TensorDataset]
"""Samples by domain: stored inputs of shape [n, *stored] and labels of shape [n].

What is stored may be a memory map of uint8; a :class:`Preparation` makes of it what models see.
"""


class DataError(ValueError):
    """Data that cannot be read or trained on: what was expected, what was found, what to do."""


def _silent(*_: object) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class News:
    """Who hears of work that takes long."""

    say: Callable[[str], None] = _silent
    """One line of text."""
    advance: Callable[[str, int, int], None] = _silent
    """What is being done, how many are done, of how many."""


@dataclass(frozen=True)
class Reading:
    """How files are read that a model is to predict."""

    skip_unreadable: bool = False
    """Whether images that cannot be decoded are left out, and told."""
    name: str | None = None
    """The column of a table by which its rows are called."""
    news: News = field(default_factory=News)


AS_USUAL = Reading()


@dataclass(frozen=True)
class Preparation(ABC):
    """Makes of stored inputs what a model sees; kept beside a trained model.

    The fields of a subclass are plain numbers, strings and tuples of them, and say everything.
    """

    kind: ClassVar[str]
    """Name of the subclass where it is written down."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one input as a model sees it."""

    def fitted(self, stored: Sequence[Tensor]) -> Preparation:
        """With what is estimated from data (means, say), from the sources' training splits alone.

        Args:
            stored: stored inputs of each source's training split.
        """
        return self

    @property
    def notes(self) -> tuple[str, ...]:
        """What fitting noticed."""
        return ()

    @abstractmethod
    def __call__(self, stored: Tensor) -> Tensor:
        """The inputs of a batch [n, *stored] as a model sees them, float32 [n, *shape]."""

    def augmented(
        self,
        stored: Tensor,
        generator: Generator,
        total: int | None = None,
        part: slice = slice(None),
        by: Collection[str] = AUGMENTATIONS,
    ) -> Tensor:
        """The same for training, varied at random where that is usual for such data.

        Args:
            stored: stored inputs.
            generator: of what is random; after the call in the same state for every ``part``.
            total: samples in the whole batch, if these are a part of it.
            part: which ones they are.
            by: how they are varied, of what there is.
        """
        return self(stored)

    @property
    def varies(self) -> bool:
        """Whether it can."""
        return type(self).augmented is not Preparation.augmented

    def read(self, paths: Sequence[Path], reading: Reading = AS_USUAL) -> tuple[list[str], Tensor]:
        """Names and stored inputs of the samples in files.

        Args:
            paths: the files.
            reading: what to do with those that are broken, what rows are called, who hears.

        Raises:
            DataError: files of another kind, unreadable ones, or data that has no files.
        """
        raise DataError(
            f"this model was trained on data that are no files ({self.kind}), so there is no file "
            f"it could read; use the model from Python instead."
        )

    def adopted(self, other: Preparation, stored: Tensor) -> Tensor:
        """Inputs that other data stored, as this preparation has them stored.

        Args:
            other: the preparation of the other data.
            stored: their inputs.

        Raises:
            DataError: inputs of another kind or shape.
        """
        if other.kind != self.kind or other.shape != self.shape:
            raise DataError(
                f"the model takes {self.kind} of shape {list(self.shape)}; these data are "
                f"{other.kind} of shape {list(other.shape)}."
            )
        return stored

    def options_for_more(self) -> dict[str, Any]:
        """What readers are told of other data that are to be :meth:`adopted`."""
        return {}

    def described(self) -> dict[str, Any]:
        """Everything, for JSON; :func:`preparation_from` reads it."""
        return {"kind": self.kind} | asdict(self)


@dataclass(frozen=True)
class AsStored(Preparation):
    """Inputs that are float tensors already."""

    kind: ClassVar[str] = "tensors"

    stored_shape: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """As stored."""
        return self.stored_shape

    def __call__(self, stored: Tensor) -> Tensor:
        """As stored, in float32."""
        return stored.float()


@dataclass(frozen=True)
class Groups:
    """Which samples of a domain belong together: of one patient, say, or frames of one video."""

    of_sample: Tensor
    """Number of its group, shape [n]."""
    names: tuple[str, ...]
    kinds: tuple[str, ...] = ()
    """What the data say of each group beside its class, if they say anything."""
    everywhere: bool = True
    """Whether a name means the same group in all domains, as a person's does."""

    @classmethod
    def of(cls, names: Sequence[object]) -> Groups:
        """Of the group's name of each sample.

        >>> Groups.of(["ann", "bob", "ann"])
        Groups(of_sample=tensor([0, 1, 0]), names=('ann', 'bob'), kinds=(), everywhere=True)
        """
        number = {name: place for place, name in enumerate(dict.fromkeys(map(str, names)))}
        return cls(torch.tensor([number[str(name)] for name in names]), tuple(number))


Recorder = Callable[[Groups, tuple[str, ...], Tensor, Tensor, Tensor], Mapping[str, Any] | None]
"""What is kept of a domain's outputs at each checkpoint, sealed, for reports of such data.

Takes the domain's groups, the classes, the labels of all its samples [n], the rows in question [m]
and the probabilities of these [m, classes]; returns plain lists and numbers.
"""


@dataclass(frozen=True)
class DomainData:
    """A data set in hand."""

    name: str
    domains: Domains
    preparation: Preparation
    recipe: Recipe
    """How such data are usually trained."""
    task: Task
    classes: tuple[str, ...]
    """Names of the classes; empty where labels are numbers."""
    never_sources: tuple[str, ...] = ()
    """Domains that are only ever held out."""
    notes: tuple[str, ...] = ()
    """What was noticed on reading: files ignored, classes missing in a domain."""
    fingerprint: str = ""
    """Changes when the data do; of a file's data the first half is that of the file."""
    built_in: bool = False
    """Whether they are drawn by a program, an entry of the list of data sets."""
    groups: Mapping[str, Groups] = field(default_factory=dict)
    """By domain, where samples belong together: none is split between training and validation."""
    recorder: Recorder | None = None
    """What is kept of a domain's groups at checkpoints."""
    counted: bool = False
    """Whether their inputs stand for others that are not decoded, which the fingerprint misses."""

    @property
    def outputs(self) -> int:
        """How many numbers a model puts out for one input."""
        return len(self.classes) if self.task == "classification" else 1


GROUP = Option(
    "Samples that belong together, as a patient's, and are never split: a column (table, "
    "manifest), a field (WILDS), or a pattern in domain/class/file, of which the first part in "
    "brackets counts."
)


@settings
class ReaderOptions:
    """What every reader may be told; a reader's own options are a subclass."""

    least: Whole = 2
    """Fewest domains and classes that will do: two to train on, one to evaluate."""
    counted: bool = False
    """Whether they are counted alone, for a plan: nothing is decoded, and inputs of the right
    shape stand for those that would be. It is not for users."""


@dataclass(frozen=True)
class Reader:
    """A kind of data that lies somewhere on disk."""

    kind: str
    summary: str
    """In one line, for the command line's list."""
    read: Callable[..., DomainData]
    """Of a path, these options, and who hears of the reading."""
    options: type[ReaderOptions] = ReaderOptions
    draws: bool = False
    """Whether some of it is drawn anew in each trial; then ``read`` takes a generator, too."""
    hold_out: Callable[[Any], str | None] = lambda _: None
    """The domain that options say to hold out, if they do."""
