"""The directory of one training: its settings, its records, where it stands, the model it chose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
import yaml
from pydantic import TypeAdapter
from torch import Tensor

from domaingrad.bench.checked import (
    DamagedError,
    Record,
    require_comment,
    with_comment,
    with_header,
    without_header,
)
from domaingrad.bench.disk import (
    LOCK,
    PART,
    RunDirectoryError,
    alone_in,
    make,
    read,
    replace,
)

from .settings import deciding
from .trainer import Checkpoint, HeldOutScores, Recorded, Sealed

CONFIG = "config.yaml"
RECORDS = "run.jsonl"
SEALED = "held_out.jsonl"
GROUPS = "groups.jsonl"
STATE = "checkpoint.pt"
MODEL = "model.safetensors"
DAMAGED = ".damaged"
"""End of the name under which a damaged file is kept."""

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
    cause: str = ""
    """What is damaged."""


class RunDirectory:
    """Everything that a training leaves.

    ``config.yaml`` says what is run and with what; ``run.jsonl`` has a line a checkpoint, and one
    at the end; ``held_out.jsonl`` is the sealed side of these, ``groups.jsonl`` what data
    with groups record, ``checkpoint.pt`` is the state to go on from; ``model.safetensors`` the
    model with the best source validation so far. Lines are appended whole, and files replaced
    whole, so that a kill at any moment leaves the last of each. Each file says by a checksum
    whether it is what was written; the state holds the lines that were written before it.

    Args:
        path: perhaps missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.set_aside: list[str] = []
        """Files that were damaged, and are kept under another name."""
        self._records = {name: Record(path / name) for name in (RECORDS, SEALED, GROUPS)}

    def require_free(self) -> None:
        """See that nothing is there but a run, or nothing at all.

        Raises:
            RunDirectoryError: something else is.
        """
        if not self.begun and (left := sorted(self.others())):
            raise RunDirectoryError(
                f"{self.path} holds no run but other files ({', '.join(left[:5])}); choose "
                f"another directory."
            )

    def make(self) -> None:
        """Make it, if missing.

        Raises:
            RunDirectoryError: it cannot be made or written to, or holds other files.
        """
        self.require_free()
        make(self.path)

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
        if self.begun:
            self.require(config)
            return
        self.make()
        text = "# domaingrad train --config THIS_FILE runs it again\n"
        text += yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        replace(self.path / CONFIG, with_comment(text))

    def require(self, config: Mapping[str, Any]) -> None:
        """See that this run is what is there.

        Raises:
            RunDirectoryError: it is another one.
        """
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
            RunDirectoryError: there is no run here, or it is not what was written.
        """
        found = read_config(self.path / CONFIG)
        require_comment(self.path / CONFIG)
        return found

    def append(
        self,
        *found: tuple[Checkpoint, Sealed, Recorded],
        finished: Mapping[str, Any] | None = None,
    ) -> None:
        """Add checkpoints, the sealed side first; and the last line, where the run has ended.

        Then what is not to be kept is removed.
        """
        self._records[GROUPS].append(
            *({"step": seen.step, "groups": dict(groups)} for seen, _, groups in found if groups)
        )
        self._records[SEALED].append(
            *(
                {"step": seen.step, "scores": {n: asdict(each) for n, each in sealed.items()}}
                for seen, sealed, _ in found
                if sealed
            )
        )
        lines: list[dict[str, Any]] = [asdict(seen) for seen, *_ in found]
        if finished is not None:
            sums = [self._records[name].tail for name in (SEALED, GROUPS)]
            lines.append({"finished": dict(finished), "sums": sums})
        self._records[RECORDS].append(*lines)
        if finished is not None:
            self.tidy()

    def checkpoints(self) -> list[Checkpoint]:
        """By step."""
        lines = [line for line in self._records[RECORDS].lines() if "finished" not in line]
        with self._read(RECORDS):
            by_step = {line["step"]: _CHECKPOINT.validate_python(line) for line in lines}
        return [by_step[step] for step in sorted(by_step)]

    def finished(self) -> dict[str, Any] | None:
        """What the last line says; ``None`` before the end."""
        ends = [line for line in self._records[RECORDS].lines() if "finished" in line]
        if not ends:
            return None
        with self._read(RECORDS):
            for name, tail in zip((SEALED, GROUPS), ends[-1]["sums"], strict=True):
                if tail != Record(self.path / name).tail:
                    raise DamagedError(f"{self.path / name} lacks what was written to it last.")
            return asdict(_ENDED.validate_python(ends[-1]["finished"]))

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
        except RunDirectoryError as error:
            return Records("damaged", cause=str(error))
        if not checkpoints or (sealed and not {each.step for each in checkpoints} <= set(sealed)):
            return Records("damaged", cause=f"{self.path / SEALED} lacks checkpoints.")
        return Records("finished", ended, tuple(checkpoints), sealed, groups)

    def unseal(self) -> dict[int, Sealed]:
        """Scores on the held-out domains by step; for reports, once training has ended."""
        with self._read(SEALED):
            return {
                line["step"]: _SCORES.validate_python(line["scores"])
                for line in self._records[SEALED].lines()
            }

    def groups(self) -> dict[int, Recorded]:
        """What was recorded of groups by step and domain; likewise for reports."""
        with self._read(GROUPS):
            return {line["step"]: line["groups"] for line in self._records[GROUPS].lines()}

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Replace the state to go on from, which has what is written so far, too."""
        content = BytesIO()
        records = {name: record.text for name, record in self._records.items()}
        torch.save({**_compact(dict(state)), "records": records}, content)
        replace(self.path / STATE, with_header(content.getvalue()))

    def state(self) -> dict[str, Any] | None:
        """The state to go on from, if there is one.

        Raises:
            DamagedError: it is not what was written.
            RunDirectoryError: it cannot be read.
        """
        path = self.path / STATE
        if not path.exists():
            return None
        content = without_header(path)
        try:
            state: dict[str, Any] = torch.load(BytesIO(content), "cpu", weights_only=True)
        except (RuntimeError, ValueError, EOFError, KeyError, UnpicklingError) as error:
            raise RunDirectoryError(
                f"{path} cannot be read ({type(error).__name__}: {error}); restore it, or remove "
                f"it to begin this run again."
            ) from error
        return state

    def resume(self) -> dict[str, Any] | None:
        """The same, and forget what was written after it, for that is done again.

        A damaged state is none, so that the run begins again; what is damaged is kept under
        another name.

        Raises:
            RunDirectoryError: it is whole, and cannot be read.
        """
        try:
            state = self.state()
        except DamagedError:
            self._set_aside(STATE)
            state = None
        for name, record in self._records.items():
            try:
                record.lines()
            except DamagedError:
                self._set_aside(name)
            record.restore("" if state is None else state["records"][name])
        return state

    def _set_aside(self, name: str) -> None:
        (self.path / name).replace(self.path / f"{name}{DAMAGED}")
        self.set_aside.append(name)

    def save_model(self, content: bytes) -> None:
        """Replace the model that was chosen."""
        replace(self.model, content)

    def tidy(self) -> None:
        """Remove what is large of a run that has ended and is to keep neither model nor state."""
        if self.resumable and (ended := self.records().ended) and not ended["kept"]:
            for name in (MODEL, STATE):
                (self.path / name).unlink(missing_ok=True)

    @property
    def resumable(self) -> bool:
        """Whether there is a state to go on from, whole or not."""
        return (self.path / STATE).exists()

    @property
    def model(self) -> Path:
        """Where the chosen model is."""
        return self.path / MODEL

    def others(self) -> Iterator[str]:
        """What is there that no run has written before it has begun."""
        for file in self.path.iterdir() if self.path.is_dir() else ():
            if file.name != LOCK and not PART.fullmatch(file.name):
                yield file.name

    @contextmanager
    def _read(self, name: str) -> Iterator[None]:
        try:
            yield
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, RunDirectoryError):
                raise
            raise RunDirectoryError(
                f"{self.path / name} is no record of this version ({type(error).__name__}); "
                f"restore it, or choose another directory."
            ) from error


def _compact(value: Any) -> Any:
    """Tensors without what else lies in their storage, also in lists and dicts."""
    match value:
        case Tensor() if value.untyped_storage().nbytes() > value.nbytes:
            return value.clone()
        case dict():
            return {name: _compact(each) for name, each in value.items()}
        case list() | tuple():
            return type(value)(map(_compact, value))
    return value


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
        config = yaml.load(read(path).decode(), _PlainLoader)
    except OSError as error:
        raise RunDirectoryError(
            f"expected the settings of a run in {path}; {error.strerror}. Name the directory of a "
            f"run, or its {CONFIG}."
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        said = " ".join(str(error).split())
        raise RunDirectoryError(f"{path} is no YAML of settings ({said}).") from error
    if not isinstance(config, dict) or not all(isinstance(name, str) for name in config):
        raise RunDirectoryError(f"expected settings by name in {path}; found {_short(config)}.")
    return config


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


class _PlainLoader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads values alone, without what a small file could be made a huge value by."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """A node that is no alias."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("settings are written without anchors and aliases")
        return super().compose_node(parent, index)


@dataclass
class _Ended:
    seconds: float
    warnings: list[str]
    notes: list[str]
    kept: bool = True
    """The model and the state to go on from."""


_CHECKPOINT, _SCORES = TypeAdapter(Checkpoint), TypeAdapter(dict[str, HeldOutScores])
_ENDED = TypeAdapter(_Ended)
