"""The table of counts: what a case may ask of the device at most, in ``counts.json``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from .counting import Counts

TABLE = Path(__file__).with_name("counts.json")
COMMAND = "python -m tests.pretended_cuda --rewrite"
LOWER = "The table of counts can be lowered"

Row = dict[str, int]
WithinTable = Callable[[str, Counts], None]


class Table:
    """A plugin of pytest with the fixture ``within_table``.

    Args:
        rewrite: make a new table of what is measured, lower or higher, and assert nothing.
    """

    def __init__(self, rewrite: bool) -> None:
        self.rewrite = rewrite
        self.rows: dict[str, Row] = json.loads(TABLE.read_text()) if TABLE.exists() else {}
        self.measured: dict[str, Row] = {}

    @pytest.fixture
    def within_table(self) -> WithinTable:
        """Assert that a case's counts are at most those of the table."""
        return self.check

    def check(self, case: str, counts: Counts) -> None:
        assert case not in self.measured, f"two cases are called {case!r}"
        row = {"launches": counts.launches, "synchronizations": counts.synchronizations}
        self.measured[case] = row
        if self.rewrite:
            return
        assert case in self.rows, f"{case!r} is not in the table: {row}; run {COMMAND}"
        over = {name: n for name, n in row.items() if n > self.rows[case][name]}
        assert not over, f"{case}: {over}, and the table has {self.rows[case]}\n{counts}"

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if self.rewrite and exitstatus == pytest.ExitCode.OK:
            TABLE.write_text(_as_json(self.measured.items()), encoding="utf-8")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        lower = {
            case: row
            for case, row in self.measured.items()
            if case in self.rows and any(row[name] < self.rows[case][name] for name in row)
        }
        if lower and not self.rewrite:
            cases = "; ".join(f"{c} {self.rows[c]} → {row}" for c, row in lower.items())
            terminalreporter.write_line(f"{LOWER} ({COMMAND}): {cases}")


def _as_json(rows: Iterable[tuple[str, Row]]) -> str:
    """A line a case, so that a change of one is a change of one line."""
    lines = (f"  {json.dumps(case)}: {json.dumps(row)}" for case, row in sorted(rows))
    return "{\n" + ",\n".join(lines) + "\n}\n"
