"""Look-up by name that answers a misspelling with the nearest name, and registries of names."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import LazyLoader, find_spec, module_from_spec
from typing import Any, TypeVar

T = TypeVar("T")

BESIDE = ("domaingrad.faces",)
"""Packages of our own that register something, above this one."""


class UnknownNameError(ValueError):
    """A name that is in no list."""


class PluginError(ValueError):
    """A plug-in that cannot be imported, or registers a name that is taken."""


class PluginWarning(UserWarning):
    """An installed package's plug-in that cannot be imported; the rest works without it."""


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


class Registry(Mapping[str, T]):
    """Entries by name: those of this package, of imported plug-ins, and of installed packages.

    A package brings entries along by an entry point in the group ``domaingrad.KINDs`` that names a
    module, or something in one, which registers them when it is imported.

    Args:
        kind: what an entry is, for messages.

    >>> letters = Registry[int]("letter")
    >>> letters.add("alpha", 1)
    1
    >>> letters.add("alpha", 2)
    Traceback (most recent call last):
    domaingrad.bench.names.PluginError: there is a letter 'alpha' already; choose another name.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}
        self._complete = False

    def add(self, name: str, entry: T) -> T:
        """Register an entry, and return it.

        Raises:
            PluginError: the name is taken.
        """
        if name in self._entries:
            raise PluginError(f"there is a {self.kind} {name!r} already; choose another name.")
        self._entries[name] = entry
        return entry

    def __getitem__(self, name: str) -> T:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def _all(self) -> dict[str, T]:
        if not self._complete:
            self._complete = True
            import_plugins(BESIDE)
            group = f"domaingrad.{self.kind.replace(' ', '_')}s"
            for point in entry_points(group=group):
                try:
                    point.load()
                except Exception as error:  # noqa: BLE001 - whatever somebody's package dies of
                    told = f"{point.value} cannot be used: {type(error).__name__}: {error}"
                    warnings.warn(told, PluginWarning, stacklevel=3)
        return self._entries


def imported_when_used(name: str) -> Any:
    """A module that is imported when something in it is asked for, as it takes a while."""
    if name in sys.modules:
        return sys.modules[name]
    spec = find_spec(name)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    loader = spec.loader = LazyLoader(spec.loader)
    module = sys.modules[name] = module_from_spec(spec)
    loader.exec_module(module)
    return module


def import_plugins(modules: tuple[str, ...]) -> None:
    """Import modules that register something, installed ones or files in the current folder.

    Raises:
        PluginError: one cannot be imported.
    """
    if modules and (here := os.getcwd()) not in sys.path:
        sys.path.append(here)
    for name in modules:
        if not all(part.isidentifier() for part in name.split(".")):
            raise PluginError(f"a plug-in is named as for `import`; found {name!r}.")
        try:
            import_module(name)
        except ImportError as error:
            raise PluginError(
                f"the plug-in {name} cannot be imported ({error}); name a module as for `import`, "
                f"in the current folder or installed."
            ) from error
