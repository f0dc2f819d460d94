"""Files below a folder, and lists of names in messages."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from domaingrad.bench.disk import read

from .data import DataError


def visible(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Every folder from ``root`` down, with the names of its folders and its files, sorted.

    Names that begin with a dot are left out, and so is what macOS adds to archives. Symbolic links
    are followed, but for those that lead back to a folder on the way to them.

    Raises:
        DataError: a folder that may not be listed.
    """
    for folder, folders, files in os.walk(root, onerror=_refuse, followlinks=True):
        folders[:] = sorted(
            name for name in folders if not _hidden(name) and not _leads_back(folder, name)
        )
        yield Path(folder), folders, sorted(name for name in files if not _hidden(name))


def read_json(path: Path) -> Any:
    """What a file of JSON says.

    Raises:
        DataError: it cannot be read, or is no JSON.
    """
    try:
        return json.loads(read(path).decode("utf-8-sig"))
    except RecursionError as error:
        raise DataError(f"{path} cannot be read: it is nested too deeply.") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error


def listed(names: Sequence[object], most: int = 10) -> str:
    """The first of the names, and how many there are beside.

    >>> listed(["a", "b", "c"], most=2)
    'a, b and 1 more'
    >>> listed(["a", "b"])
    'a, b'
    """
    shown = ", ".join(map(str, names[:most]))
    return f"{shown} and {len(names) - most:,} more" if len(names) > most else shown


def natural(name: str) -> list[tuple[bool, int, str]]:
    """By which names sort as one counts.

    >>> sorted(["10", "9", "a10", "a9"], key=natural)
    ['9', '10', 'a9', 'a10']
    """
    parts = re.split(r"(\d+)", name)
    numbers = [(part, int(part) if part.isdecimal() else None) for part in parts if part]
    return [(n is None, n or 0, "" if n is not None else part) for part, n in numbers]


def alike(names: Iterable[str]) -> list[list[str]]:
    """Names that differ only by case and by the space in and around them.

    >>> alike(["cat", "Cat ", "dog", "a b", "a  b"])
    [['cat', 'Cat '], ['a b', 'a  b']]
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(" ".join(name.split()).casefold(), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _leads_back(folder: str, name: str) -> bool:
    path = Path(folder, name)
    if not path.is_symlink():
        return False
    # By any link of the way here, too: folders may link to each other.
    target = path.resolve()
    return any(above.resolve().is_relative_to(target) for above in path.parents)


def _refuse(error: OSError) -> None:
    raise DataError(
        f"{error.filename} cannot be listed ({error.strerror}); allow it to be read, or move it "
        f"out of the data."
    ) from error
