"""Look-up by name that answers a misspelling with the nearest name."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TypeVar

T = TypeVar("T")


class UnknownNameError(ValueError):
    """A name that is in no list."""


def look_up(kind: str, name: str, known: Mapping[str, T]) -> T:
    """The entry called ``name``.

    >>> look_up("method", "and-musk", {"erm": 1, "and-mask": 2})
    Traceback (most recent call last):
    domaingrad.bench.names.UnknownNameError: there is no method 'and-musk'; did you mean
    'and-mask'? Known: erm, and-mask.
    """
    if name in known:
        return known[name]
    folded = {each.lower(): each for each in known}
    near = get_close_matches(name.lower(), folded, n=1, cutoff=0.5)
    hint = f"; did you mean {folded[near[0]]!r}?" if near else "."
    raise UnknownNameError(f"there is no {kind} {name!r}{hint} Known: {', '.join(known)}.")
