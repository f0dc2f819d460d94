"""The directory of a sweep: its plan, its runs, what has failed."""

from __future__ import annotations

from contextlib import AbstractContextManager
from itertools import count
from pathlib import Path

from domaingrad.bench.checked import read_document, write_document
from domaingrad.bench.disk import RunDirectoryError, alone_in, make, read, replace, require_no_link

from .directory import Condition, Records, RunDirectory
from .plan import Plan, differences, extends

PLAN = "plan.json"
RUNS = "runs"
FAILURES = "failures"


class SweepDirectory:
    """Everything that a sweep leaves.

    ``plan.json`` says what was asked for and which runs that takes; ``runs/KEY`` is the directory
    of a run, as ``domaingrad train`` leaves it; ``failures/KEY.txt`` is what a run has died of.

    Args:
        path: perhaps missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self) -> None:
        """Make it, if missing.

        Raises:
            RunDirectoryError: it cannot be made or written to.
        """
        make(self.path, RUNS, FAILURES)

    @classmethod
    def at(cls, path: Path) -> SweepDirectory | None:
        """One that may be there."""
        return cls(path) if (path / PLAN).is_file() else None

    @classmethod
    def existing(cls, path: Path) -> SweepDirectory:
        """One that is there.

        Raises:
            RunDirectoryError: there is no sweep.
        """
        if not (path / PLAN).is_file():
            raise RunDirectoryError(
                f"{path} is no sweep: it has no {PLAN}. Name the directory of a sweep or compare."
            )
        return cls(path)

    def alone(self) -> AbstractContextManager[None]:
        """Keep other sweeps out; the lock ends with the process, however that ends.

        Raises:
            RunDirectoryError: another sweep is at work here.
        """
        return alone_in(self.path, "another sweep is at work")

    def begin(self, plan: Plan, extend: bool) -> None:
        """Write down the plan, or see that it is what is there.

        Args:
            plan: what is to be run.
            extend: whether a plan that goes beyond the one that is there takes its place.

        Raises:
            RunDirectoryError: there is another plan.
        """
        self.require(plan, extend)
        self.make()
        if not (self.path / PLAN).exists() or plan != self.plan():
            write_document(self.path / PLAN, plan.to_document())

    def require(self, plan: Plan, extend: bool) -> None:
        """See that a plan is what is there, or may take its place.

        Raises:
            RunDirectoryError: there is another plan.
        """
        if not (self.path / PLAN).exists():
            return
        there = self.plan()
        if plan != there and not (extends(plan, there) and extend):
            raise RunDirectoryError(self._another(plan, there))

    def replace(self, plan: Plan) -> None:
        """Write down a plan of a directory for any plan; runs that are there are kept.

        Raises:
            RunDirectoryError: there is a plan that the directory is for alone.
        """
        if (self.path / PLAN).exists() and not self.plan().request.any_plan:
            raise RunDirectoryError(
                f"{self.path} holds a sweep, which compare would put another plan upon; choose "
                f"another directory."
            )
        self.make()
        write_document(self.path / PLAN, plan.to_document())

    def _another(self, plan: Plan, there: Plan) -> str:
        """What differs, and what to do."""
        found = [
            f"{name} is {old!r} there and {new!r} here"
            for name, old, new in differences(there.request, plan.request)
        ]
        found += [
            f"{name} is {old} there and {plan.decided_by[name]} here"
            for name, old in there.decided_by.items()
            if plan.decided_by.get(name, old) != old
        ]
        told = "; ".join(found) or "other runs"
        if extends(plan, there):
            return f"{self.path} holds a smaller sweep: {told}. To go on with it, extend it."
        return (
            f"{self.path} holds another sweep: {told}. Choose another directory, or give the "
            f"command that began it; extended, it takes more data, methods, trials, draws or "
            f"selection methods, and nothing else may differ."
        )

    def plan(self) -> Plan:
        """What was asked for.

        Raises:
            RunDirectoryError: it cannot be read.
        """
        path = self.path / PLAN
        try:
            return Plan.from_document(read_document(path))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise RunDirectoryError(
                f"{path} is no plan of this version ({error}); restore it, or choose another "
                f"directory."
            ) from error

    def place(self, key: str) -> Path:
        """Where a run is, or will be."""
        place = self.path / RUNS / key
        require_no_link(self.path / RUNS)
        require_no_link(place)
        return place

    def records(self, key: str) -> Records:
        """All that is written of a run."""
        return RunDirectory(self.place(key)).records()

    def condition(self, key: str) -> Condition:
        """What has become of a run."""
        return self.records(key).condition

    def finished(self, key: str) -> bool:
        """Whether a run has ended well, and its records are whole."""
        return self.condition(key) == "finished"

    def put_aside(self, key: str) -> None:
        """Keep a run whose records are damaged under another name, so that it is done again."""
        place = self.place(key)
        condition = self.condition(key)
        spoiled = condition == "not begun" and place.is_dir() and any(RunDirectory(place).others())
        if condition == "damaged" or spoiled:
            free = (place.with_name(f"{key}.damaged-{n}") for n in count(1))
            place.rename(next(path for path in free if not path.exists()))

    def fail(self, key: str, cause: str) -> None:
        """Write down what a run has died of."""
        replace(self._failure(key), cause.encode())

    def forgive(self, key: str) -> None:
        """Forget it."""
        self._failure(key).unlink(missing_ok=True)

    def failure(self, key: str) -> str | None:
        """What a run has died of."""
        path = self._failure(key)
        return read(path).decode(errors="replace") if path.exists() else None

    def _failure(self, key: str) -> Path:
        require_no_link(self.path / FAILURES)
        require_no_link(self.path / FAILURES / f"{key}.txt")
        return self.path / FAILURES / f"{key}.txt"
