"""Parts of reports and evaluations that only some data have, found by registration."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .methods import Method
from .names import Registry
from .runs.trainer import Recorded

if TYPE_CHECKING:
    from .reports.themes import Plot


@dataclass(frozen=True)
class Table:
    """A table of texts; all columns but the first ``left`` are numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    left: int = 1


@dataclass(frozen=True)
class SweepSection:
    """What a report of a sweep says of one data set."""

    table: Table
    document: Sequence[Mapping[str, Any]]
    """For JSON."""
    plots: Callable[[], list[Plot]]


@dataclass(frozen=True)
class EvaluationSection:
    """What an evaluation says of domains that are no source."""

    tables: tuple[Table, ...]
    document: Mapping[str, Any]
    """For JSON, by domain."""
    draw: Callable[[Path], None] | None
    """Draws the section's picture into a file, if there is anything to draw."""


class Section(ABC):
    """A part that is there where data have recorded what it is made of."""

    picture: str
    """Name of the file of an evaluation's picture."""

    @abstractmethod
    def of_sweep(
        self,
        recorded: Mapping[tuple[Any, ...], Recorded],
        data: str,
        methods: Sequence[Method],
        held_out: Sequence[str],
    ) -> SweepSection | None:
        """A section of a report, or none.

        Args:
            recorded: of the selected models, by data, method, held-out domain, trial and draw.
            data: name of the data set.
            methods: in order.
            held_out: in order.
        """

    @abstractmethod
    def of_evaluation(self, targets: Recorded, sources: Recorded) -> EvaluationSection | None:
        """A section of an evaluation, or none.

        Args:
            targets: what was recorded of domains that are no source.
            sources: of the sources' validation splits.
        """

    def threshold(self, sources: Recorded) -> tuple[str, float] | None:
        """A class, and the probability from which on it is decided for; ``None`` for the likeliest.

        Args:
            sources: what was recorded of the sources' validation splits at the selected model.
        """
        return None


SECTIONS = Registry[Section]("report section")
"""By the name under which JSON has them."""
