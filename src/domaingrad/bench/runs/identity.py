"""What a run's numbers depend on beside settings and data: code, and how that is told."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache, lru_cache, partial
from hashlib import sha256
from importlib.util import find_spec, resolve_name
from pathlib import Path

import torch

import domaingrad

NUMERICS = 2
"""Version of the numbers that the loop, the engines and the rules come to.

Raised by whoever changes them, and by nobody else: ``tests/bench/golden.json`` pins them. It is of
every run's key, so that runs of other numbers are never put together; a release that leaves it as
it is goes on with the runs of an older one.
"""
OWN = "domaingrad"
METHODS = "domaingrad.bench.methods"
LOOP = tuple(f"{METHODS}.{name}" for name in ("base", "learner", "rules"))
"""Modules of methods that are of the loop, so that NUMERICS stands for them."""

LIBRARIES = sys.stdlib_module_names | {"torch", "numpy"}
"""Packages that count for the record alone."""


@cache
def code_fingerprint() -> str:
    """All of our own code and PyTorch's version: where a run comes from, for the record alone."""
    code = sha256(torch.__version__.encode())
    for path in sorted(Path(domaingrad.__file__).parent.rglob("*.py")):
        if "cli" not in path.parts and "reports" not in path.parts:
            code.update(path.read_bytes())
    return code.hexdigest()[:16]


def code_of(*parts: object) -> str:
    """Hash of what a run takes beside the loop: its method, what plug-ins have registered for it.

    Its module, and those of the same package that this imports: of a method of this package, those
    of methods (the loop's apart), of a plug-in all.
    Comments, docstrings and layout do not count. What else is of this package has ``NUMERICS``.

    Args:
        parts: classes and functions.
    """
    digest = sha256()
    told = {METHODS, *LOOP}
    for given in parts:
        part = given.func if isinstance(given, partial) else given
        for each in part.__mro__ if isinstance(part, type) else (part,):
            module = getattr(each, "__module__", None) or ""
            top = module.partition(".")[0]
            if top != OWN or (module.startswith(f"{METHODS}.") and isinstance(each, type)):
                for source in _sources(module, METHODS if top == OWN else top, told):
                    digest.update(source.encode())
    return digest.hexdigest()[:16]


def _sources(module: str, package: str, told: set[str]) -> Iterator[str]:
    """A module, and what it imports of a package; each once, nothing of installed Python."""
    path = None if module in told or package in LIBRARIES else _file(module)
    if path is None:
        return
    told.add(module)
    own = module if Path(path).name == "__init__.py" else module.rpartition(".")[0]
    stripped, imported = _read(Path(path).read_text(encoding="utf-8"), own)
    yield f"{module}\n{stripped}"
    for name in imported:
        if name == package or name.startswith(f"{package}."):
            yield from _sources(name, package, told)


@lru_cache(maxsize=256)
def _read(text: str, package: str) -> tuple[str, tuple[str, ...]]:
    """A module's code, and the names that it imports.

    Args:
        text: of the module.
        package: that it is in, or is.
    """
    names: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return _stripped(text), tuple(names)


def _file(module: str) -> str | None:
    """Where a module is, whether or not it has been imported yet; ``None`` for another name."""
    if module == "__main__":
        return getattr(sys.modules[module], "__file__", None)
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):  # a name within a module, which is no package
        return None
    return spec.origin if spec and spec.has_location else None


def _stripped(source: str) -> str:
    """Code without comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # type: ignore[attr-defined]
                each
                for each in body
                if not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))
            ]
    return ast.dump(tree)
