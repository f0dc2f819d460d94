"""Records of finished runs on disk: one line a run, appended whole or not at all."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .run import Checkpoint, HeldOutRecord, RunConfig, RunRecord


class Records:
    """The records in a directory.

    ``runs.jsonl`` holds what may be looked at while training; ``held_out.jsonl`` is the sealed
    part, which only the report opens. A line cut short by a kill is dropped; a run counts as
    finished once its line is in ``runs.jsonl``, which is written last.

    Args:
        directory: made if missing.

    Raises:
        OSError: the directory cannot be made or written to.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._runs = directory / "runs.jsonl"
        self._held_out = directory / "held_out.jsonl"
        for path in (self._runs, self._held_out):
            _drop_cut_line(path)

    def append(self, record: RunRecord, held_out: HeldOutRecord) -> None:
        """Write down a finished run."""
        _append(self._held_out, asdict(held_out))
        _append(self._runs, asdict(record))

    def runs(self) -> dict[str, RunRecord]:
        """Finished runs by key."""
        records = map(_run_record, _lines(self._runs))
        return {record.config.key: record for record in records}

    def unseal(self) -> dict[str, HeldOutRecord]:
        """Held-out scores by key of the run; for reports alone."""
        return {
            line["key"]: HeldOutRecord(line["key"], tuple(line["accuracies"]))
            for line in _lines(self._held_out)
        }


def _run_record(line: dict[str, Any]) -> RunRecord:
    return RunRecord(
        config=RunConfig(**line["config"]),
        checkpoints=tuple(Checkpoint(**checkpoint) for checkpoint in line["checkpoints"]),
        seconds=line["seconds"],
        warnings=tuple(line["warnings"]),
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path} line {number} is not a record ({error.msg}); restore the file or choose "
                f"another --out."
            ) from error
    return lines


def _append(path: Path, record: dict[str, Any]) -> None:
    with path.open("ab") as file:
        file.write(json.dumps(record).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _drop_cut_line(path: Path) -> None:
    with path.open("ab+") as file:
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        if whole != file.tell():
            file.truncate(whole)
