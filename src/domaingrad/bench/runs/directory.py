"""The directory of one training: its settings, its records, where it stands, the model it chose."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from .files import LOCK, PART, RunDirectoryError, alone_in, make, replace, room
from .settings import deciding
from .trainer import Checkpoint, HeldOutScores, Recorded, Sealed

CONFIG = "config.yaml"
RECORDS = "run.jsonl"
SEALED = "held_out.jsonl"
GROUPS = "groups.jsonl"
STATE = "checkpoint.pt"
MODEL = "model.safetensors"

Condition = Literal["not begun", "not finished", "finished", "damaged"]
"""Of a run; damaged is one whose records say that it has ended, and are not whole."""


@dataclass(frozen=True)
class Records:
    """What a run has left, for reports, once it has ended."""

    condition: Condition
    ended: Mapping[str, Any] = field(default_factory=dict)
    """What its last line says."""
    checkpoints: tuple[Checkpoint, ...] = ()
    sealed: Mapping[int, Sealed] = field(default_factory=dict)
    """By step."""
    groups: Mapping[int, Recorded] = field(default_factory=dict)
    """By step; empty where the data record nothing of groups."""


class RunDirectory:
    """Everything that a training leaves.

    ``config.yaml`` says what is run and with what; ``run.jsonl`` has a line a checkpoint, and one
    at the end; ``held_out.jsonl`` is the sealed side of these, ``groups.jsonl`` what data
    with groups record, ``checkpoint.pt`` is the state to go on from; ``model.safetensors`` the
    model with the best source validation so far. Lines are appended whole, and files replaced
    whole, so that a kill at any moment leaves the last of each.

    Args:
        path: made if missing.

    Raises:
        RunDirectoryError: it cannot be made or written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        make(path)

    @classmethod
    def existing(cls, path: Path) -> RunDirectory:
        """One that is there.

        Raises:
            RunDirectoryError: there is no run.
        """
        if not (path / CONFIG).is_file():
            raise RunDirectoryError(
                f"{path} is no run: it has no {CONFIG}. Name a directory that domaingrad train "
                f"wrote."
            )
        return cls(path)

    def alone(self, patience: float = 0.0) -> AbstractContextManager[None]:
        """Keep other processes out; the lock ends with the process, however that ends.

        Args:
            patience: seconds to wait for another process to end.

        Raises:
            RunDirectoryError: another process is at work here.
        """
        return alone_in(self.path, "another process is training", patience)

    @property
    def begun(self) -> bool:
        """Whether there is a run here."""
        return (self.path / CONFIG).exists()

    def begin(self, config: Mapping[str, Any]) -> None:
        """Write down what is run, or see that it is what is there.

        Raises:
            RunDirectoryError: the directory holds another run, or other files.
        """
        if not self.begun:
            if left := sorted(self.others()):
                raise RunDirectoryError(
                    f"{self.path} holds no run but other files ({', '.join(left[:5])}); choose "
                    f"another directory."
                )
            text = "# domaingrad train --config THIS_FILE runs it again\n"
            text += yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
            replace(self.path / CONFIG, text.encode())
            return
        both = (self.config(), config)
        there, here = (flat(each) for each in both)
        old, new = (flat(deciding(each)) for each in both)
        differing = [
            f"{name} is {_short(there.get(name))} there and {_short(here.get(name))} here"
            for name in dict.fromkeys([*old, *new])
            if old.get(name) != new.get(name)
        ]
        if differing:
            raise RunDirectoryError(
                f"{self.path} holds another run: {'; '.join(differing)}. Choose another directory, "
                f"or go on with that one by the command that began it."
            )

    def config(self) -> dict[str, Any]:
        """What is run.

        Raises:
            RunDirectoryError: there is no run here.
        """
        return read_config(self.path / CONFIG)

    def append(self, seen: Checkpoint, sealed: Sealed, groups: Recorded | None = None) -> None:
        """Add a checkpoint; its sealed side first."""
        if groups:
            self._append(GROUPS, {"step": seen.step, "groups": dict(groups)})
        if sealed:
            scores = {name: asdict(found) for name, found in sealed.items()}
            self._append(SEALED, {"step": seen.step, "scores": scores})
        self._append(RECORDS, asdict(seen))

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Add the last line."""
        self._append(RECORDS, {"finished": dict(facts)})

    def checkpoints(self) -> list[Checkpoint]:
        """By step; of a step that was done twice, after a kill, the later."""
        lines = [line for line in self._lines(RECORDS) if "finished" not in line]
        with self._read(RECORDS):
            by_step = {line["step"]: Checkpoint(**line) for line in lines}
        return [by_step[step] for step in sorted(by_step)]

    def finished(self) -> dict[str, Any] | None:
        """What the last line says; ``None`` before the end."""
        ends = [line["finished"] for line in self._lines(RECORDS) if "finished" in line]
        return ends[-1] if ends else None

    @property
    def condition(self) -> Condition:
        """What has become of the run."""
        return self.records().condition

    def records(self) -> Records:
        """All that is written of the run; nothing but its condition where it has not ended well."""
        if not self.begun:
            return Records("not begun")
        try:
            ended = self.finished()
            if ended is None:
                return Records("not finished")
            checkpoints, sealed, groups = self.checkpoints(), self.unseal(), self.groups()
        except RunDirectoryError:
            return Records("damaged")
        if not checkpoints or not {each.step for each in checkpoints} <= set(sealed):
            return Records("damaged")
        return Records("finished", ended, tuple(checkpoints), sealed, groups)

    def unseal(self) -> dict[int, Sealed]:
        """Scores on the held-out domains by step; for reports, once training has ended."""
        with self._read(SEALED):
            return {
                line["step"]: {
                    name: HeldOutScores(**found) for name, found in line["scores"].items()
                }
                for line in self._lines(SEALED)
            }

    def groups(self) -> dict[int, Recorded]:
        """What was recorded of groups by step and domain; likewise for reports."""
        with self._read(GROUPS):
            return {line["step"]: line["groups"] for line in self._lines(GROUPS)}

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Replace the state to go on from."""
        content = BytesIO()
        torch.save(dict(state), content)
        replace(self.path / STATE, content.getvalue())

    def state(self) -> dict[str, Any] | None:
        """The state to go on from, if there is one.

        Raises:
            RunDirectoryError: it cannot be read.
        """
        path = self.path / STATE
        if not path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise RunDirectoryError(
                f"{path} cannot be read ({type(error).__name__}: {error}); restore it, or remove "
                f"it to begin this run again."
            ) from error
        return state

    def save_model(self, content: bytes) -> None:
        """Replace the model that was chosen."""
        replace(self.model, content)

    def forget_model(self) -> None:
        """Remove what is large, once the run has ended: the model and the state to go on from."""
        for name in (STATE, MODEL):
            (self.path / name).unlink(missing_ok=True)

    @property
    def model(self) -> Path:
        """Where the chosen model is."""
        return self.path / MODEL

    def others(self) -> Iterator[str]:
        """What is there that no run has written before it has begun."""
        for file in self.path.iterdir():
            if file.name != LOCK and file.suffix != PART:
                yield file.name

    def _append(self, name: str, line: Mapping[str, Any]) -> None:
        path = self.path / name
        with room(name, self.path), path.open("ab+") as file:
            # A line that a kill cut short must not swallow the next one.
            file.seek(0)
            written = file.read()
            if not written.endswith(b"\n") and written:
                file.truncate(written.rfind(b"\n") + 1)
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _lines(self, name: str) -> list[dict[str, Any]]:
        path = self.path / name
        if not path.exists():
            return []
        whole, _, _ = path.read_bytes().rpartition(b"\n")
        with self._read(name):
            lines = [json.loads(line) for line in whole.splitlines()]
            if any(not isinstance(line, dict) for line in lines):
                raise ValueError("a line that is no object")
            return lines

    @contextmanager
    def _read(self, name: str) -> Iterator[None]:
        try:
            yield
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, RunDirectoryError):
                raise
            raise RunDirectoryError(
                f"{self.path / name} is no record of this version ({error}); restore it, or choose "
                f"another directory."
            ) from error


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings as ``outer.inner``."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            found |= {f"{name}.{inner}": each for inner, each in value.items()}
        else:
            found[name] = value
    return found


def read_config(path: Path) -> dict[str, Any]:
    """The settings in a file.

    Raises:
        RunDirectoryError: no such file, or no settings in it.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunDirectoryError(
            f"expected the settings of a run in {path}; {error.strerror}. Name the directory of a "
            f"run, or its {CONFIG}."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunDirectoryError(f"{path} is no YAML ({error}).") from error
    if not isinstance(config, dict):
        raise RunDirectoryError(f"expected settings by name in {path}; found {_short(config)}.")
    return config


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
