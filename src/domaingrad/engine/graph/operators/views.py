"""Operators that only look at a tensor in another way, or put tensors side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..layout import PerUnit, Sampled, Shared, viewed
from .registry import Call, Outcome, operators, rule

aten = torch.ops.aten


def _per_unit(call: Call, name: str = "self") -> bool:
    return isinstance(call.at(call[name]), PerUnit)


def _axis(call: Call, name: str = "self") -> Sampled:
    placement = call.at(call[name])
    if not isinstance(placement, Sampled):
        raise call.refuse("takes samples in an argument that is not known to hold any")
    return placement


@rule(aten.view, aten._unsafe_view, aten.reshape)
def view(call: Call) -> Outcome:
    """Another shape of the same entries."""
    if _per_unit(call):
        return Outcome(PerUnit(), lambda _units, x, size: x.reshape(len(x), *size), True)
    axis, shape, new = _axis(call), call.shape(call["self"]), call.shape()
    found = viewed(axis, shape, new, call.samples)
    if found is None:
        raise call.refuse(f"of shape {list(shape)} as {list(new)} cuts through samples")
    return Outcome(found)


@rule(aten.t)
def t(call: Call) -> Outcome:
    """Rows for columns."""
    if _per_unit(call):
        return Outcome(PerUnit(), lambda _units, x: x.transpose(-2, -1) if x.ndim > 2 else x, True)
    axis = _axis(call)
    return Outcome(axis.moved(1 - axis.dim) if len(call.shape()) == 2 else axis)


@rule(aten.transpose)
def transpose(call: Call) -> Outcome:
    """Two dimensions for each other."""
    ndim = len(call.shape())
    a, b = call.dim(call["dim0"], ndim), call.dim(call["dim1"], ndim)
    if _per_unit(call):
        return Outcome(PerUnit(), lambda _units, x, *_: x.transpose(a + 1, b + 1), True)
    axis = _axis(call)
    return Outcome(axis.moved({a: b, b: a}.get(axis.dim, axis.dim)))


@rule(aten.permute)
def permute(call: Call) -> Outcome:
    """Dimensions in another order."""
    ndim = len(call.shape())
    dims = [call.dim(d, ndim) for d in call["dims"]]
    if _per_unit(call):
        order = [0, *(d + 1 for d in dims)]
        return Outcome(PerUnit(), lambda _units, x, _: x.permute(order), True)
    axis = _axis(call)
    return Outcome(axis.moved(dims.index(axis.dim)))


@rule(aten.unsqueeze)
def unsqueeze(call: Call) -> Outcome:
    """One dimension more."""
    dim = call.dim(call["dim"], len(call.shape()))
    if _per_unit(call):
        return Outcome(PerUnit(), lambda _units, x, _: x.unsqueeze(dim + 1), True)
    axis = _axis(call)
    return Outcome(axis.moved(axis.dim + (dim <= axis.dim)))


@rule(aten.squeeze)
def squeeze(call: Call) -> Outcome:
    """Without dimensions of size 1."""
    shape = call.shape(call["self"])
    given = call.args.get("dim")
    dims = range(len(shape)) if given is None else [given] if isinstance(given, int) else given
    gone = {d for d in (call.dim(d, len(shape)) for d in dims) if shape and shape[d] == 1}
    if _per_unit(call):
        places = tuple(d + 1 for d in sorted(gone))
        return Outcome(PerUnit(), lambda _units, x, *_: x.squeeze(places), True)
    axis = _axis(call)
    return Outcome(axis.moved(axis.dim - sum(d < axis.dim for d in gone)))


@rule(aten.expand)
def expand(call: Call) -> Outcome:
    """The same entries several times."""
    shape, new = call.shape(call["self"]), call.shape()
    more = len(new) - len(shape)
    if _per_unit(call):
        grown = [d for d in range(len(new)) if d < more or shape[d - more] != new[d]]
        if any(new[d] % call.samples == 0 for d in grown):
            raise call.refuse("spreads a tensor per unit over what may be samples")

        def run(_units: Any, x: Tensor, size: Sequence[int], **_: Any) -> Tensor:
            x = x.view(len(x), *(1,) * more, *x.shape[1:])
            return x.expand(len(x), *size)

        return Outcome(PerUnit(), run, True)
    axis = _axis(call)
    return Outcome(axis.moved(axis.dim + more))


@rule(aten.repeat)
def repeat(call: Call) -> Outcome:
    """Copies, the whole after the whole."""
    axis = _axis(call)
    repeats = list(call["repeats"])
    dim = axis.dim + len(repeats) - len(call.shape(call["self"]))
    return Outcome(Sampled(dim, axis.outer * int(repeats[dim]), axis.inner, axis.repeated))


@rule(aten.select)
def select(call: Call) -> Outcome:
    """One entry along a dimension."""
    dim = call.dim(call["dim"], len(call.shape(call["self"])))
    if _per_unit(call):
        return Outcome(PerUnit(), lambda _units, x, _, index: x.select(dim + 1, index), True)
    axis = _axis(call)
    if dim == axis.dim:
        raise call.refuse("picks single samples")
    return Outcome(axis.moved(axis.dim - (dim < axis.dim)))


@rule(aten.slice)
def slice_(call: Call) -> Outcome:
    """Some entries along a dimension."""
    shape = call.shape(call["self"])
    dim = call.dim(call["dim"], len(shape))
    if _per_unit(call):
        return Outcome(PerUnit())
    axis = _axis(call)
    if dim != axis.dim or call.shape() == shape:
        return Outcome(axis)
    return Outcome(_groups(call, axis, call["start"] or 0, call.shape()[dim], call["step"]))


def _groups(call: Call, axis: Sampled, start: Any, size: int, step: int = 1) -> Sampled:
    """Some of the groups that each hold all samples."""
    group = call.samples * axis.inner
    if step != 1 or not isinstance(start, int) or start % group or size % group or size == 0:
        raise call.refuse("picks some of the samples")
    return Sampled(axis.dim, size // group, axis.inner, axis.repeated)


@rule(*operators("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "chunk"))
def split(call: Call) -> Outcome:
    """Parts along a dimension."""
    shape = call.shape(call["self"])
    dim = call.dim(call["dim"], len(shape))
    parts = call.node.meta["val"]
    axis = _axis(call)
    if dim != axis.dim:
        return Outcome(tuple(axis for _ in parts))
    found, start = [], 0
    for part in parts:
        found.append(_groups(call, axis, start, call.number(part.shape[dim])))
        start += call.number(part.shape[dim])
    return Outcome(tuple(found))


@rule(aten.unbind)
def unbind(call: Call) -> Outcome:
    """Each entry along a dimension."""
    dim = call.dim(call["dim"], len(call.shape(call["self"])))
    axis = _axis(call)
    if dim == axis.dim:
        raise call.refuse("takes the samples apart")
    moved = axis.moved(axis.dim - (dim < axis.dim))
    return Outcome(tuple(moved for _ in call.node.meta["val"]))


@rule(aten.cat)
def cat(call: Call) -> Outcome:
    """Side by side along a dimension."""
    tensors = [x for x in call["tensors"] if call.shape(x) != (0,)]
    dim = call.dim(call["dim"], len(call.shape()))
    axis = _together(call, tensors)
    if dim != axis.dim:
        return Outcome(axis)
    if any(call.at(x) != axis and not _same(call.at(x), axis) for x in tensors):
        raise call.refuse("puts samples beside what are none")
    if axis.inner != 1 and any(_inner(call.at(x)) != axis.inner for x in tensors):
        raise call.mixes()
    outer = sum(_outer(call.at(x)) for x in tensors)
    return Outcome(Sampled(dim, outer, axis.inner))


def _same(placement: Any, axis: Sampled) -> bool:
    return (
        isinstance(placement, Sampled)
        and placement.dim == axis.dim
        and placement.inner == axis.inner
    )


def _inner(placement: Any) -> int:
    return placement.inner if isinstance(placement, Sampled) else 0


def _outer(placement: Any) -> int:
    return placement.outer if isinstance(placement, Sampled) else 0


def _together(call: Call, tensors: Sequence[Any]) -> Sampled:
    """Where all of them hold their samples."""
    axes = [call.at(x) for x in tensors]
    found = [a for a in axes if isinstance(a, Sampled)]
    axis = found[0]
    for x, placement in zip(tensors, axes, strict=True):
        if isinstance(placement, Sampled):
            along = call.dim(call.args.get("dim", 0), len(call.shape())) == axis.dim
            alike = placement.dim == axis.dim and placement.inner == axis.inner
            if not alike or (placement.outer != axis.outer and not along):
                raise call.mixes()
        elif not isinstance(placement, Shared) or (
            axis.dim not in placement.free and call.shape(x)[axis.dim] != 1
        ):
            raise call.refuse("puts samples beside a tensor that has one entry a sample")
    return next((a for a in found if not a.repeated), axis)


@rule(aten.stack)
def stack(call: Call) -> Outcome:
    """One above the other, along a new dimension."""
    tensors = list(call["tensors"])
    dim = call.dim(call["dim"], len(call.shape()))
    axes = [call.at(x) for x in tensors]
    axis = next(a for a in axes if isinstance(a, Sampled))
    for placement in axes:
        if placement != axis and not (isinstance(placement, Shared) and axis.dim in placement.free):
            raise call.mixes()
    return Outcome(axis.moved(axis.dim + (dim <= axis.dim)))


@rule(*operators("select_backward", "select_scatter"))
def select_backward(call: Call) -> Outcome:
    """Zeros but for one entry along a dimension."""
    scatter = "src" in call.args
    ndim = len(call.shape())
    dim = call.dim(call["dim"], ndim)
    source = call["src"] if scatter else call["grad_output"]
    return _scattered(call, source, call.args.get("self"), dim, gone=True)


@rule(*operators("slice_backward", "slice_scatter"))
def slice_backward(call: Call) -> Outcome:
    """Zeros but for some entries along a dimension."""
    scatter = "src" in call.args
    dim = call.dim(call["dim"], len(call.shape()))
    source = call["src"] if scatter else call["grad_output"]
    if dim == getattr(call.at(source), "dim", None) and call.shape(source) != call.shape():
        axis = call.at(source)
        assert isinstance(axis, Sampled)
        group = call.samples * axis.inner
        start = call["start"] or 0
        if scatter or not isinstance(start, int) or start % group or call.shape()[dim] % group:
            raise call.refuse("picks some of the samples")
        return Outcome(Sampled(dim, call.shape()[dim] // group, axis.inner))
    return _scattered(call, source, call.args.get("self"), dim, gone=False)


def _scattered(call: Call, source: Any, into: Any, dim: int, gone: bool) -> Outcome:
    """Written into zeros, or into another tensor."""
    place, base = call.at(source), call.at(into)
    if isinstance(place, Sampled):
        axis = place.moved(place.dim + (gone and dim <= place.dim))
    else:
        assert isinstance(base, Sampled)
        axis = base
        own = axis.dim - (gone and dim < axis.dim)
        free = isinstance(place, Shared) and own in place.free
        shape = call.shape(source)
        if dim == axis.dim or not (free or own >= len(shape) or shape[own] == 1):
            raise call.refuse("writes into samples what has one entry a sample")
        return Outcome(axis)
    if into is not None and isinstance(call.node.args[0], torch.fx.Node):
        if isinstance(base, Sampled) and base != axis:
            raise call.mixes()
        if not isinstance(base, Sampled) and not (
            isinstance(base, Shared) and axis.dim in base.free
        ):
            raise call.refuse("writes samples into a tensor that is none")
    return Outcome(axis)


@rule(*operators("flip", "roll", "constant_pad_nd"))
def along(call: Call) -> Outcome:
    """Moves or adds entries along some dimensions."""
    ndim = len(call.shape())
    axis = _axis(call)
    if "pad" in call.args:
        pads = list(call["pad"])
        dims = [ndim - 1 - i // 2 for i in range(0, len(pads), 2) if pads[i] or pads[i + 1]]
    else:
        dims = [call.dim(d, ndim) for d in call["dims"]] or list(range(ndim))
    if axis.dim in dims:
        raise call.refuse("moves samples")
    return Outcome(axis)


@rule(*operators("unfold", "unfold_backward"))
def unfold(call: Call) -> Outcome:
    """Windows along one dimension, in a new last one."""
    name = "self" if "self" in call.args else "grad_in"
    axis, ndim = _axis(call, name), len(call.shape(call[name]))
    dim = call["dimension"] if name == "self" else call["dim"]
    if call.dim(dim, ndim - (name != "self")) == axis.dim:
        raise call.mixes()
    return Outcome(axis)


@rule(*operators("diagonal", "diagonal_backward", "diagonal_scatter"))
def diagonal(call: Call) -> Outcome:
    """Entries with equal places in two dimensions."""
    raise call.mixes()


@rule(*operators("view_as_real", "view_as_complex", "_conj", "_neg_view", "real", "imag"))
def complex_parts(call: Call) -> Outcome:
    """Real and imaginary parts in a last dimension, or not."""
    return Outcome(_axis(call))


@rule(*operators("pixel_shuffle", "pixel_unshuffle"))
def pixels(call: Call) -> Outcome:
    """Channels for positions."""
    axis = _axis(call)
    if axis.dim >= len(call.shape()) - 3:
        raise call.mixes()
    return Outcome(axis)


@rule(aten.as_strided)
def as_strided(call: Call) -> Outcome:
    """The same entries in another shape, or with other strides where a dimension has one entry."""
    axis, base = _axis(call), call["self"].meta["val"]
    size, stride = tuple(call["size"]), tuple(call["stride"])
    offset = call.args.get("storage_offset")
    if offset in (None, base.storage_offset()):
        if size == call.shape(call["self"]) and _alike(base.stride(), stride, size):
            return Outcome(axis)
        found = viewed(axis, call.shape(call["self"]), size, call.samples)
        if found is not None and base.is_contiguous() and _is_dense(size, stride):
            return Outcome(found)
    raise call.refuse("lays entries out anew")


@rule(*operators("as_strided_scatter"))
def as_strided_scatter(call: Call) -> Outcome:
    """All of a tensor written anew."""
    axis, base = _axis(call, "src"), call["self"].meta["val"]
    size, stride = tuple(call["size"]), tuple(call["stride"])
    found = viewed(axis, size, call.shape(), call.samples)
    whole = base.is_contiguous() and _is_dense(size, stride)
    if found is None or not whole or call.args.get("storage_offset") not in (None, 0):
        raise call.refuse("lays entries out anew")
    return Outcome(found)


def _alike(first: Sequence[int], second: Sequence[int], size: Sequence[int]) -> bool:
    """Whether strides differ only where there is one entry."""
    return all(a == b for a, b, n in zip(first, second, size, strict=True) if n != 1)


def _is_dense(size: Sequence[int], stride: Sequence[int]) -> bool:
    expected, dense = 1, []
    for n in reversed(size):
        dense.append(expected)
        expected *= n
    return _alike(dense[::-1], stride, size)
