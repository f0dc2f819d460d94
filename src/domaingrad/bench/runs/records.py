"""Records of finished runs on disk: one line a run, appended whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from .fitting import Checkpoint, HeldOutScores
from .run import HeldOutRecord, RunConfig, RunRecord

T = TypeVar("T")


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
        """Finished runs by key: those with both their parts."""
        sealed = self.unseal()
        records = {record.config.key: record for record in _read(self._runs, _run_record)}
        return {key: record for key, record in records.items() if key in sealed}

    def unseal(self) -> dict[str, HeldOutRecord]:
        """Held-out scores by key of the run; for reports alone."""
        return {record.key: record for record in _read(self._held_out, _held_out_record)}


def _run_record(line: dict[str, Any]) -> RunRecord:
    return RunRecord(
        config=RunConfig(**line["config"]),
        checkpoints=tuple(Checkpoint(**checkpoint) for checkpoint in line["checkpoints"]),
        seconds=line["seconds"],
        warnings=tuple(line["warnings"]),
    )


def _held_out_record(line: dict[str, Any]) -> HeldOutRecord:
    return HeldOutRecord(line["key"], tuple(HeldOutScores(**scores) for scores in line["scores"]))


def _read(path: Path, parse: Callable[[dict[str, Any]], T]) -> list[T]:
    records = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            records.append(parse(json.loads(line)))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} line {number} is not a record of this version ({error}); restore the "
                f"file, or choose another --out."
            ) from error
    return records


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
