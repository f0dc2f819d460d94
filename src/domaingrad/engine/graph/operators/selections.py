"""Embeddings, indexing, gathering and scattering."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from ...embeddings import Scattered
from ...units import Units
from ..layout import PerUnit, Placement, Sampled, Shared
from .registry import Call, Outcome, operators, require_alike, rule

aten = torch.ops.aten


@rule(aten.embedding)
def embedding(call: Call) -> Outcome:
    """Rows of a shared table."""
    axis = call.at(call["indices"])
    if not isinstance(axis, Sampled) or isinstance(call.at(call["weight"]), Sampled):
        raise call.refuse("picks from the samples")
    return Outcome(axis)


@rule(aten.embedding_dense_backward)
def embedding_backward(call: Call) -> Outcome:
    """Sums of the rows' gradients, unit by unit."""
    g, indices = call.at(call["grad_output"]), call.at(call["indices"])
    if not isinstance(g, Sampled) or not call.in_backward:
        raise call.mixes()
    if isinstance(indices, Sampled):
        if indices != g:
            raise call.mixes()
    elif call.shape(call["indices"])[g.dim] != 1 and not (
        isinstance(indices, Shared) and g.dim in indices.free
    ):
        raise call.mixes()
    spread = not isinstance(indices, Sampled)

    def run(
        units: Units, g: Tensor, indices: Tensor, rows: int, padding: int, frequency: bool
    ) -> Scattered:
        if spread:
            indices = indices.expand(g.shape[:-1])
        axis = call_axis
        return Scattered(
            (rows, g.shape[-1]),
            axis.split(indices, units),
            axis.split(g, units),
            padding,
            frequency,
        )

    call_axis = g
    return Outcome(PerUnit(), run)


def _indices(call: Call) -> list[Any]:
    return list(call["indices"])


def _is_place(call: Call, index: Any) -> bool:
    """Whether an index is each sample's own number."""
    if not isinstance(index, Node):
        return False
    while (index.target in VIEWS or _is_whole(index)) and isinstance(index.args[0], Node):
        index = index.args[0]
    if index.target not in {aten.arange.default, aten.arange.start, aten.arange.start_step}:
        return False
    numbers = [call.number(a.meta["val"] if isinstance(a, Node) else a) for a in index.args]
    return numbers in ([call.samples], [0, call.samples], [0, call.samples, 1])


def _is_whole(node: Node) -> bool:
    """Whether a slice leaves nothing out, whatever the size."""
    if node.target is not aten.slice.Tensor:
        return False
    start, end, step = (
        node.args[place] if len(node.args) > place else default
        for place, default in ((2, None), (3, None), (4, 1))
    )
    return bool(start in (0, None) and end in (None, sys.maxsize) and step == 1)


VIEWS = {aten.view.default, aten.unsqueeze.default, aten.detach.default, aten.alias.default}


@rule(*operators("index", "_unsafe_index"))
def index(call: Call) -> Outcome:
    """Entries picked by tensors of integers."""
    base, picks = call.at(call["self"]), _indices(call)
    shape = call.shape(call["self"])
    axes = [call.at(i) for i in picks if i is not None]
    where = [d for d, i in enumerate(picks) if i is not None]
    picked = max(len(call.shape(picks[d])) for d in where)
    together = where == list(range(where[0], where[-1] + 1))
    start = where[0] if together else 0
    sampled = [a for a in axes if isinstance(a, Sampled)]
    if any(_is_bool(picks[d]) for d in where):
        raise call.refuse("picks by a mask, so many that only the data tell")
    if isinstance(base, Sampled):
        own = picks[base.dim] if base.dim < len(picks) else None
        if own is not None:
            return _own_rows(call, base, picks, own, start, picked)
        if sampled:
            raise call.mixes()
        before = base.dim - sum(d < base.dim for d in where)
        moved = before + (picked if start <= before and where[0] < base.dim else 0)
        if not together:
            moved = picked + before
        return Outcome(base.moved(moved))
    del shape
    return Outcome(_picked(call, picks, where, start, picked))


def _own_rows(
    call: Call, base: Sampled, picks: Sequence[Any], own: Any, start: int, picked: int
) -> Outcome:
    """Each sample picks among its own entries: x[arange(N), i]."""
    others = [i for i in picks if i is not None and i is not own]
    if not _is_place(call, own) or not base.plain or start > base.dim:
        raise call.refuse("picks samples by numbers")
    place = picked - len(call.shape(own)) + _only_long(call.shape(own))
    for other in others:
        placement = call.at(other)
        aligned = place - (picked - len(call.shape(other)))
        if isinstance(placement, Sampled):
            if placement.dim != aligned or not placement.plain:
                raise call.mixes()
        else:
            require_alike(call, place, [other], picked)
    return Outcome(Sampled(start + place))


def _only_long(shape: Sequence[int]) -> int:
    return next(d for d, size in enumerate(shape) if size != 1)


def _picked(
    call: Call, picks: Sequence[Any], where: Sequence[int], start: int, picked: int
) -> Sampled:
    """Where the samples lie in what samples' numbers pick from a shared tensor."""
    found: Sampled | None = None
    for d in where:
        placement = call.at(picks[d])
        if isinstance(placement, Sampled):
            own = placement.moved(placement.dim + picked - len(call.shape(picks[d])))
            if found is not None and own != found:
                raise call.mixes()
            found = own
    if found is None:
        raise call.mixes()
    rest = [picks[d] for d in where if not isinstance(call.at(picks[d]), Sampled)]
    require_alike(call, found.dim, rest, picked)
    return found.moved(start + found.dim)


def _is_bool(index: Any) -> bool:
    return isinstance(index, Node) and index.meta["val"].dtype in (torch.bool, torch.uint8)


@rule(*operators("index_put", "_unsafe_index_put"))
def index_put(call: Call) -> Outcome:  # noqa: PLR0912, a branch a way of writing
    """Entries written, or added, where tensors of integers point."""
    base, picks = call.at(call["self"]), _indices(call)
    values = call.at(call["values"])
    where = [d for d, i in enumerate(picks) if i is not None]
    if any(_is_bool(picks[d]) for d in where):
        return _masked(call, base, picks, where, values)
    picked = max(len(call.shape(picks[d])) for d in where)
    together = where == list(range(where[0], where[-1] + 1))
    start = where[0] if together else 0
    if not together:
        raise call.mixes()
    ndim = len(call.shape())
    result = ndim - len(where) + picked
    along = (
        None
        if not isinstance(values, Sampled)
        else values.dim + result - len(call.shape(call["values"]))
    )
    # The samples lie in a dimension that no index touches,
    untouched = None
    if along is not None and not start <= along < start + picked:
        untouched = along if along < start else along - picked + len(where)
    if isinstance(base, Sampled) and base.dim not in where:
        untouched = base.dim
    if untouched is not None:
        if any(isinstance(call.at(picks[d]), Sampled) for d in where):
            raise call.mixes()
        if isinstance(base, Sampled) and base.dim == untouched:
            return Outcome(base)
        if isinstance(base, Shared) and untouched in base.free and isinstance(values, Sampled):
            return Outcome(values.moved(untouched))
        raise call.mixes()
    own = [d for d in where if _is_place(call, picks[d])]
    # or each sample writes into its own entries,
    if own and call.shape()[own[0]] == call.samples:
        dim = own[0]
        free = isinstance(base, Shared) and dim in base.free
        if free or (isinstance(base, Sampled) and base.dim == dim and base.plain):
            return Outcome(Sampled(dim))
    # or all add to a tensor of each unit.
    if call["accumulate"] and isinstance(base, Shared) and call.in_backward and along is not None:
        found = [call.at(picks[d]) for d in where]
        for d, placement in zip(where, found, strict=True):
            own_dim = along - start - (picked - len(call.shape(picks[d])))
            if isinstance(placement, Sampled):
                if placement.dim != own_dim:
                    raise call.mixes()
            elif own_dim >= 0 and call.shape(picks[d])[own_dim] != 1:
                raise call.mixes()
        if _is_zero(call["self"]):
            return Outcome(PerUnit())
    raise call.mixes()


def _masked(
    call: Call, base: Placement, picks: Sequence[Any], where: Sequence[int], values: Placement
) -> Outcome:
    """Where a mask of the samples' own says so, one number is written: x[mask] = number."""
    mask = call.at(picks[0])
    single = isinstance(values, Shared) and not any(s != 1 for s in call.shape(call["values"]))
    if len(where) == 1 and where[0] == 0 and single and not call["accumulate"]:
        if isinstance(base, Sampled) and mask == base:
            return Outcome(base)
        if isinstance(base, Shared) and isinstance(mask, Sampled) and mask.dim in base.free:
            return Outcome(mask)
    raise call.refuse("picks by a mask, so many that only the data tell")


def _is_zero(node: Any) -> bool:
    return isinstance(node, Node) and (
        node.target in {aten.new_zeros.default, aten.zeros.default, aten.zeros_like.default}
        or (node.target is aten.full.default and bool(node.args[1] == 0))
    )


@rule(*operators("gather", "gather_backward", "take_along_dim"))
def gather(call: Call) -> Outcome:
    """Entries along one dimension, row by row."""
    axes = [call.at(call["self"]), call.at(call["index"])]
    return Outcome(_row_by_row(call, axes))


@rule(*operators("scatter", "scatter_add", "scatter_reduce"))
def scatter(call: Call) -> Outcome:
    """Entries written along one dimension, row by row."""
    base = call.at(call["self"])
    found = [call.at(x) for x in (call["index"], call.args.get("src")) if isinstance(x, Node)]
    axis = next((a for a in found if isinstance(a, Sampled)), None)
    if isinstance(base, Shared) and axis is not None and axis.dim in base.free:
        return Outcome(_row_by_row(call, found))
    return Outcome(_row_by_row(call, [base, *found]))


def _row_by_row(call: Call, axes: Sequence[Placement]) -> Sampled:
    axis = next(a for a in axes if isinstance(a, Sampled))
    for placement in axes:
        if placement != axis and not (isinstance(placement, Shared) and axis.dim in placement.free):
            raise call.mixes()
    if call.dim(call["dim"], len(call.shape())) == axis.dim:
        raise call.mixes()
    return axis


@rule(*operators("index_select", "index_add", "index_copy", "index_fill"))
def index_select(call: Call) -> Outcome:
    """Entries along one dimension, the same for all rows."""
    base, picks = call.at(call["self"]), call.at(call["index"])
    dim = call.dim(call["dim"], len(call.shape(call["self"])))
    source = call.args.get("source")
    apart = isinstance(base, Sampled) and isinstance(picks, Shared) and dim != base.dim
    if apart and (source is None or call.at(source) == base):
        return Outcome(base)
    if isinstance(base, Shared) and isinstance(picks, Sampled) and source is None:
        return Outcome(picks.moved(dim))
    raise call.mixes()
