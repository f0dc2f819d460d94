"""Files of ours that say of themselves whether they are whole: each reading checks a checksum."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from .disk import RunDirectoryError, append, checksum, read, replace

SUM = "sum"
_HEADER = b"written by domaingrad, sha256 "
_BEGIN = b'{\n "' + SUM.encode() + b'": "'
_COMMENT = "# checksum of the lines above: "


class DamagedError(RunDirectoryError):
    """A file of ours that is not what was written."""


class Record:
    """A file of lines of JSON, each with a checksum of all lines up to it.

    So a line that is altered, missing or at another place is found; what is missing at the end is
    found by whoever knows :attr:`tail`. A last line that a kill cut short does not count.

    Args:
        path: the file, perhaps missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._text: str | None = None
        """What the file holds, once something has been added to it."""

    @property
    def text(self) -> str:
        """All whole lines, to be kept elsewhere.

        Raises:
            DamagedError: a line is not what was written.
        """
        if self._text is None:
            self._text = self._whole()
            self._verified(self._text)
        return self._text

    @property
    def tail(self) -> str:
        """Checksum of all lines."""
        return _tail(self.text, self.path.name)

    def lines(self) -> list[dict[str, Any]]:
        """What was written, line by line.

        Raises:
            DamagedError: a line is not what was written.
        """
        return self._verified(self._whole())

    def append(self, *documents: Mapping[str, Any]) -> None:
        """Add a line for each, all at once.

        Raises:
            FullDiskError: the disk is full.
        """
        if not documents:
            return
        before = text = self.text
        for document in documents:
            text += _with_sum(json.dumps(document), _tail(text, self.path.name)) + "\n"
        if self.path.exists() and self.path.stat().st_size == len(before):
            append(self.path, text[len(before) :].encode())
        else:  # a line was cut short
            replace(self.path, text)
        self._text = text

    def restore(self, text: str) -> None:
        """Hold what was kept elsewhere, and no more."""
        if not text:
            self.path.unlink(missing_ok=True)
        elif not self.path.exists() or self._raw() != text.encode():
            replace(self.path, text)
        self._text = text

    def _raw(self) -> bytes:
        return read(self.path, None) if self.path.exists() else b""

    def _whole(self) -> str:
        whole, newline, _ = self._raw().rpartition(b"\n")
        return (whole + newline).decode(errors="replace")

    def _verified(self, text: str) -> list[dict[str, Any]]:
        found, before = [], self.path.name
        for number, line in enumerate(text.split("\n")[:-1], 1):
            plain, _, _ = line.rpartition(f', "{SUM}": "')
            before = checksum((before + plain).encode())
            if line != f'{plain}, "{SUM}": "{before}"}}':
                raise DamagedError(
                    f"{self.path} is damaged: its line {number} is not what was written after the "
                    f"lines before it."
                )
            found.append(json.loads(plain + "}"))
        return found


def _with_sum(document: str, before: str) -> str:
    plain = document[:-1]
    return f'{plain}, "{SUM}": "{checksum((before + plain).encode())}"}}'


def _tail(text: str, name: str) -> str:
    return text.rstrip("\n")[-18:-2] if text else name


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """Write an object as JSON, with a checksum."""
    text = json.dumps(document, indent=1, ensure_ascii=False)
    content = text.encode(errors="backslashreplace")
    replace(path, _BEGIN + checksum(content).encode() + b'",' + content[1:])


def read_document(path: Path) -> dict[str, Any]:
    """What :func:`write_document` wrote.

    Raises:
        DamagedError: it is not that.
        OSError: no such file.
    """
    content = read(path)
    given, rest = content[len(_BEGIN) : len(_BEGIN) + 16], content[len(_BEGIN) + 18 :]
    whole = b"{" + rest
    if content != _BEGIN + given + b'",' + rest or checksum(whole).encode() != given:
        raise DamagedError(f"{path} is not what domaingrad wrote, or of another version.")
    document: dict[str, Any] = json.loads(whole)
    return document


def with_comment(text: str) -> str:
    """A text of YAML with its checksum in a comment at its end."""
    return f"{text}{_COMMENT}{checksum(text.encode())}\n"


def require_comment(path: Path) -> None:
    """See that a text is as :func:`with_comment` made it.

    Raises:
        DamagedError: it is not.
    """
    content = read(path)
    text, _, given = content.rpartition(_COMMENT.encode())
    if given != f"{checksum(text)}\n".encode():
        raise DamagedError(
            f"{path} has been changed since it was written, or is of another version; put it back. "
            f"To train with other settings, change a copy of it, elsewhere."
        )


def with_header(content: bytes) -> bytes:
    """Content after a line with its checksum."""
    return _HEADER + sha256(content).hexdigest().encode() + b"\n" + content


def without_header(path: Path) -> bytes:
    """The content in a file that :func:`with_header` made.

    Raises:
        DamagedError: it is not that.
        OSError: no such file.
    """
    header, _, content = read(path, None).partition(b"\n")
    if header != _HEADER + sha256(content).hexdigest().encode():
        raise DamagedError(f"{path} is damaged or of another version: its checksum differs.")
    return content
