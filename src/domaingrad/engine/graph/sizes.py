"""Sizes of a graph's tensors in whole numbers: as captured, or as another batch would have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

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


def _sizes(value: Any) -> list[torch.SymInt]:
    found = list(value.shape) if isinstance(value, Tensor) else [value]
    return [size for size in found if isinstance(size, torch.SymInt)]


def _expression(value: Any) -> Any:
    return value.node.shape_env.replace(value.node.expr)
