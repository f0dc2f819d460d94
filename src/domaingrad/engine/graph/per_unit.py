"""An operator called once a unit, as separate passes would call it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..gradients import UnitGradients
from ..units import Units
from .layout import PerUnit, Sampled
from .operators import Placements


def each_unit(
    node: Node, placements: Mapping[Node, Placements], result: Placements
) -> Callable[..., Any]:
    """What calls a node's operator once a unit.

    Args:
        node: the node.
        placements: where the samples lie in its arguments.
        result: where they lie in what comes of it: joined there, or stacked.
    """
    op: Any = node.target
    leaves, _ = tree_flatten((node.args, dict(node.kwargs)))
    places = [placements[leaf] if isinstance(leaf, Node) else None for leaf in leaves]

    def run(units: Units, *args: Any, **kwargs: Any) -> Any:
        given, spec = tree_flatten((args, kwargs))
        parts = [_parts(value, place, units) for value, place in zip(given, places, strict=True)]
        results = []
        for unit in range(units.count):
            own_args, own_kwargs = tree_unflatten([part[unit] for part in parts], spec)
            results.append(op(*own_args, **own_kwargs))
        return _joined(results, result, units)

    return run


def stacked(value: Any) -> Any:
    """A tensor [K, *shape] of gradients that are computed when they are asked for."""
    if not isinstance(value, UnitGradients):
        return value
    return value.tensor()


def _parts(value: Any, place: Placements, units: Units) -> Sequence[Any]:
    if isinstance(place, Sampled):
        return place.split(value, units)
    if isinstance(place, PerUnit):
        return stacked(value).unbind(0)  # type: ignore[no-any-return]
    return [value] * units.count


def _joined(results: Sequence[Any], place: Placements, units: Units) -> Any:
    if isinstance(place, tuple):
        return tuple(
            _joined([each[i] for each in results], own, units) for i, own in enumerate(place)
        )
    if isinstance(place, Sampled):
        return place.join(results, units)
    if isinstance(place, PerUnit):
        if results[0] is None:
            return None
        return torch.stack([_tensor(each) for each in results])
    return results[-1]


def _tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.as_tensor(value)
