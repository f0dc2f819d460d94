"""What is told of runs that are carried out."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .plan import PlannedRun
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


Event = Progress | Finished | Failed | Lost
OnEvent = Callable[[Event], None]


class Undone:
    """Runs that wait for their turn, which comes again for those that lose their process."""

    def __init__(self, runs: Sequence[PlannedRun]) -> None:
        self._waiting = deque(runs)
        self._lost: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def take(self) -> PlannedRun:
        """The next one."""
        return self._waiting.popleft()

    def after(self, ended: Finished | Failed | Lost) -> Finished | Failed | Lost:
        """What has become of a run: one that was lost :data:`ATTEMPTS` times has failed."""
        if not isinstance(ended, Lost):
            return ended
        self._lost[ended.run.key] += 1
        if self._lost[ended.run.key] == ATTEMPTS:
            cause = f"it lost its process {ATTEMPTS} times ({ended.cause})"
            return Failed(ended.run, cause)
        self._waiting.appendleft(ended.run)
        return ended
