"""Sizes of a graph's tensors in whole numbers: as captured, or as another batch would have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from ..errors import UnsupportedModelError
from .operators import UnprovableError

FACTORS = (7, 5, 11, 3, 13, 17, 19, 23)
"""Another batch is so many times as large along what may change, the first along the samples."""


class Sizes:
    """What the sizes in a graph come to.

    Args:
        numbers: what each symbol stands for; ``None`` for the sizes the graph was captured with.
        of_samples: the symbols that make the number of samples.
    """

    def __init__(
        self,
        numbers: Mapping[Any, int] | None = None,
        of_samples: frozenset[Any] = frozenset(),
    ) -> None:
        self._numbers = numbers
        self._of_samples = of_samples

    def shape(self, node: Node) -> tuple[int, ...]:
        """Of a node's tensor; () of what is none."""
        value = node.meta.get("val")
        return tuple(map(self.number, value.shape)) if isinstance(value, Tensor) else ()

    def number(self, size: Any) -> int:
        """Of one size.

        Raises:
            UnprovableError: only the data tell.
        """
        if isinstance(size, int):
            return size
        if size.node.hint is None:
            raise UnprovableError("a size depends on the data")
        if self._numbers is None:
            return int(size.node.hint)
        found = _expression(size).subs(self._numbers)
        if not found.is_Integer:
            raise UnprovableError("a size depends on the data")
        return int(found)

    def tells_samples(self, value: Any) -> bool:
        """Whether a number changes with the number of samples."""
        if not isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return False
        return not self._of_samples.isdisjoint(_expression(value).free_symbols)


def changeable(
    placeholders: Sequence[Node], inputs: Sequence[Node]
) -> tuple[dict[Any, int], frozenset[Any]]:
    """What the symbols of a graph stand for in a batch of other sizes; those of the samples.

    Args:
        placeholders: all inputs of the graph.
        inputs: those with the samples along the first dimension.
    """
    sizes = [s for node in placeholders for s in _sizes(node.meta.get("val"))]
    hints = {_expression(s): int(s.node.hint) for s in sizes if _expression(s).is_Symbol}
    of_samples: set[Any] = set()
    for node in inputs:
        first = node.meta["val"].shape[0]
        if isinstance(first, torch.SymInt):
            of_samples |= _expression(first).free_symbols
    others = sorted(hints.keys() - of_samples, key=str)
    numbers = {symbol: hints[symbol] * FACTORS[0] for symbol in of_samples & hints.keys()}
    for index, symbol in enumerate(others):
        numbers[symbol] = hints[symbol] * FACTORS[1 + index % (len(FACTORS) - 1)]
    return numbers, frozenset(of_samples)


class Conditions:
    """On what sizes a graph is what the model does: a unit by itself must meet them, too.

    A unit of one sample counts as of two: Dynamo takes a size of 1 for another graph.

    Args:
        expressions: conditions in which the number of samples occurs.
        of_samples: the symbols that make that number.
        places: of the other symbols, among the graph's arguments.
    """

    def __init__(
        self,
        expressions: Sequence[Any] = (),
        of_samples: frozenset[Any] = frozenset(),
        places: Mapping[Any, int] | None = None,
    ) -> None:
        self._expressions = expressions
        self._of_samples = of_samples
        self._places = places or {}
        self._met: set[tuple[Any, ...]] = set()

    @classmethod
    def of(cls, placeholders: Sequence[Node], of_samples: frozenset[Any]) -> Conditions:
        """Those of a graph."""
        places, environment = {}, None
        for node in placeholders:
            for size in _sizes(node.meta.get("val")):
                environment = size.node.shape_env
                if not isinstance(node.meta["val"], Tensor) and _expression(size).is_Symbol:
                    places[_expression(size)] = node.meta["desc"].idx
        assert environment is not None
        found = {
            environment.replace(guard.expr)
            for guard in environment.guards
            if not _is_of_operator(guard)
        }
        return cls(
            [e for e in found if not of_samples.isdisjoint(e.free_symbols)], of_samples, places
        )

    def check(self, arguments: Sequence[Any], sizes: Sequence[int]) -> None:
        """Raise an error unless units of these sizes meet them.

        Raises:
            UnsupportedModelError: a unit does not.
        """
        others = {s: arguments[i] for s, i in self._places.items() if s not in self._of_samples}
        for size in {max(size, 2) for size in sizes}:
            key = (size, *others.values())
            if key in self._met:
                continue
            given = {**others, **dict.fromkeys(self._of_samples, size)}
            for expression in self._expressions:
                if expression.subs(given) != True:  # noqa: E712, a sympy expression
                    raise UnsupportedModelError(
                        f"it does something else for {size} samples than for the whole batch "
                        f"({expression})"
                    )
            self._met.add(key)


OPERATORS = ("_subclasses", "_meta_registrations", "_prims", "_prims_common", "_refs", "_decomp")
"""Where PyTorch describes its operators: what is decided there is how they compute, not what."""


def _is_of_operator(guard: Any) -> bool:
    """Whether a condition is an operator's own, such as a convolution's choice of a library."""
    place = getattr(getattr(guard, "sloc", None), "framework_loc", None)
    parts = Path(getattr(place, "filename", "")).with_suffix("").parts
    return any(part in OPERATORS for part in parts)


def _sizes(value: Any) -> list[torch.SymInt]:
    found = list(value.shape) if isinstance(value, Tensor) else [value]
    return [size for size in found if isinstance(size, torch.SymInt)]


def _expression(value: Any) -> Any:
    return value.node.shape_env.replace(value.node.expr)
