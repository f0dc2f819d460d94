"""What is told of runs that are carried out."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from .plan import Bundle, PlannedRun
from .trainer import Checkpoint

ATTEMPTS = 3
"""How often a run may lose its process."""


@dataclass(frozen=True)
class Progress:
    """A run has come this far."""

    run: PlannedRun
    step: int
    here: int
    """Steps taken by this process."""
    seconds: float
    """Time they took."""
    checkpoint: Checkpoint | None


@dataclass(frozen=True)
class Finished:
    """A run has ended well."""

    run: PlannedRun
    seconds: float
    checkpoint: Checkpoint
    """The selected one."""


@dataclass(frozen=True)
class Failed:
    """A run has ended in an error; the others go on."""

    run: PlannedRun
    cause: str
    """The traceback, or what became of the process."""


@dataclass(frozen=True)
class Lost:
    """A run has lost its process, and will go on from its last checkpoint in another one."""

    run: PlannedRun
    cause: str = "killed, or out of memory?"


@dataclass(frozen=True)
class Apart:
    """Runs that were to train together go on one by one."""

    runs: tuple[PlannedRun, ...]
    cause: str


Ended = Finished | Failed | Lost
Event = Progress | Ended | Apart
OnEvent = Callable[[Event], None]


class Undone:
    """Runs that wait for their turn, which comes again, alone, for those that lose their process.

    A run that was lost :data:`ATTEMPTS` times has failed.
    """

    def __init__(self, bundles: Sequence[Bundle]) -> None:
        self._waiting = deque(bundles)
        self._lost: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def take(self) -> Bundle:
        """The next ones."""
        return self._waiting.popleft()

    def after(self, bundle: Bundle, ended: Iterable[Ended]) -> Iterator[Ended]:
        """What has become of the runs of a bundle."""
        for each in ended:
            if isinstance(each, Lost):
                self._lost[each.run.key] += 1
                if self._lost[each.run.key] == ATTEMPTS:
                    cause = f"it lost its process {ATTEMPTS} times ({each.cause})"
                    yield Failed(each.run, cause)
                    continue
                self._waiting.appendleft(Bundle((each.run,), bundle.together))
            yield each
