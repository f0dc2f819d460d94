"""Operators on what holds no samples: along which dimensions is the result alike for any number?"""

from __future__ import annotations

import torch
from torch.fx import Node

from ..layout import Sampled, Shared, viewed
from .registry import Call, Placements, Rule, UnprovableError, operators

aten = torch.ops.aten

ALIKE = frozenset(
    operators(
        "full", "zeros", "ones", "empty", "scalar_tensor", "new_full", "new_zeros", "new_ones",
        "new_empty", "new_empty_strided", "empty_strided", "zeros_like", "ones_like", "full_like",
        "empty_like", "empty_permuted", "rand", "randn", "rand_like", "randn_like",
    )
)  # fmt: skip
"""One number everywhere, or independent draws."""

VIEWS = frozenset(operators("view", "_unsafe_view", "reshape", "as_strided"))

PARTS = frozenset(
    operators("unbind", "split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes")
)


def placed(call: Call) -> Placements:  # noqa: PLR0911, PLR0912, a branch an operator
    """Of the result of an operator whose arguments hold no samples."""
    value = call.node.meta.get("val")
    if isinstance(value, (tuple, list)):
        return tuple(_one_of(call, v) if isinstance(v, torch.Tensor) else None for v in value)
    if not isinstance(value, torch.Tensor):
        return None
    packet, ndim = call.op.overloadpacket, value.ndim
    if packet in ALIKE:
        return Shared(frozenset(range(ndim)))
    found = [call.at(t) for t in call.tensors]
    if not found:
        return Shared()
    own, free = call.tensors[0], _free(call, call.tensors[0])
    shape = call.shape(own)
    if packet in (aten.stack, aten.cat):
        dim = call.dim(call["dim"], ndim)
        if len(set(call["tensors"])) == 1 and (packet is aten.stack or shape[dim] == 1):
            return Shared(frozenset({dim}))
        each = frozenset.intersection(*(_free(call, tensor) for tensor in call["tensors"]))
        return Shared(frozenset(each - {dim}) if packet is aten.cat else frozenset())
    if packet in VIEWS:
        return _viewed(call, free, shape)
    if packet is aten.expand:
        more = ndim - len(shape)
        grown = [d for d in range(ndim) if d < more or shape[d - more] != call.shape()[d]]
        return Shared(frozenset([*grown, *(d + more for d in free)]))
    if packet is aten.repeat:
        return _repeated(call, shape)
    if packet is aten.unsqueeze:
        dim = call.dim(call["dim"], ndim)
        return Shared(frozenset(d + (dim <= d) for d in free))
    if packet is aten.squeeze:
        return Shared() if not free else Shared(_squeezed(shape, free, call.shape()))
    if packet in (aten.transpose, aten.t, aten.permute):
        return Shared(_permuted(call, free, ndim))
    if packet in (aten.slice, aten.bernoulli, aten.native_dropout):
        return Shared(free)
    if packet is aten.index:
        return Shared(_picked(call, free, len(shape)))
    if packet is aten.select:
        dim = call.dim(call["dim"], len(shape))
        return Shared(frozenset(d - (dim < d) for d in free if d != dim))
    if torch.Tag.pointwise in call.op.tags or packet in operators("clone", "_to_copy", "detach"):
        return Shared(_broadcast(call, ndim))
    return Shared()


def by_rule(call: Call, rule: Rule | None) -> Placements:
    """As :func:`placed`; what an operator with a rule keeps apart as it does samples is alike.

    Where a tensor is alike along a dimension as long as the batch, that dimension is taken for that
    of samples, which all are the same.
    """
    found = placed(call)
    if rule is None or not (found == Shared() or isinstance(found, tuple)):
        return found
    pretended = {
        tensor: Sampled(dim, repeated=True)
        for tensor in call.tensors
        for dim in sorted(_free(call, tensor))[:1]
        if call.shape(tensor)[dim] == call.samples
    }
    if not pretended:
        return found
    try:
        placement = rule(call.pretending(pretended)).placement
    except UnprovableError:
        return found
    if isinstance(placement, tuple):
        return tuple(_alike(each) for each in placement)
    return _alike(placement)


def _alike(placement: Placements) -> Placements:
    if isinstance(placement, Sampled) and placement.plain:
        return Shared(frozenset({placement.dim}))
    return placement if isinstance(placement, Sampled) else Shared()


def _one_of(call: Call, value: torch.Tensor) -> Shared:
    """One of several results: parts of what is alike everywhere are so, too."""
    constant = all(
        _free(call, tensor) == frozenset(range(len(call.shape(tensor)))) for tensor in call.tensors
    )
    if constant and call.op.overloadpacket in PARTS:
        return Shared(frozenset(range(value.ndim)))
    return Shared()


def _free(call: Call, node: Node) -> frozenset[int]:
    placement = call.at(node)
    return placement.free if isinstance(placement, Shared) else frozenset()


def _broadcast(call: Call, ndim: int) -> frozenset[int]:
    free = set(range(ndim))
    for tensor in call.tensors:
        shape = call.shape(tensor)
        more = ndim - len(shape)
        own = _free(call, tensor)
        free &= {d for d in range(ndim) if d < more or shape[d - more] == 1 or d - more in own}
    return frozenset(d for d in free if call.shape()[d] != 1)


def _picked(call: Call, free: frozenset[int], ndim: int) -> frozenset[int]:
    """What numbers pick along a dimension that is alike does not depend on these numbers."""
    numbers = call["indices"]
    values = [each.meta.get("val") for each in numbers if isinstance(each, Node)]
    if len(values) < len(numbers) or any(v is None or v.dtype is torch.bool for v in values):
        return frozenset()
    new = call.shape()
    kept = ndim - len(numbers)
    ahead = len(new) - kept
    alike = set(range(ahead))
    for dim, each in enumerate(numbers):
        shape, own = call.shape(each), _free(call, each)
        more = ahead - len(shape)
        if dim not in free:
            alike &= {d for d in alike if d < more or shape[d - more] == 1 or d - more in own}
    rest = {ahead + d - len(numbers) for d in free if d >= len(numbers)}
    return frozenset(d for d in alike | rest if new[d] != 1)


def _squeezed(shape: tuple[int, ...], free: frozenset[int], new: tuple[int, ...]) -> frozenset[int]:
    kept = [d for d, size in enumerate(shape) if size != 1]
    if len(kept) != len(new):
        return frozenset()
    return frozenset(kept.index(d) for d in free if d in kept)


def _permuted(call: Call, free: frozenset[int], ndim: int) -> frozenset[int]:
    packet = call.op.overloadpacket
    order = list(range(ndim))
    if packet is aten.permute:
        order = [call.dim(d, ndim) for d in call["dims"]]
    elif ndim == 2 and packet is aten.t:
        order = [1, 0]
    elif packet is aten.transpose:
        a, b = call.dim(call["dim0"], ndim), call.dim(call["dim1"], ndim)
        order[a], order[b] = b, a
    return frozenset(new for new, old in enumerate(order) if old in free)


def _viewed(call: Call, free: frozenset[int], shape: tuple[int, ...]) -> Placements:
    new = call.shape()
    if free == frozenset(range(len(shape))):
        return Shared(frozenset(range(len(new))))
    if call.op.overloadpacket is aten.as_strided:
        return Shared()
    for dim in sorted(free):
        if shape[dim] == call.samples:
            axis = viewed(Sampled(dim, repeated=True), shape, new, call.samples)
            if axis is not None and axis.plain:
                return Shared(frozenset({axis.dim}))
            if axis is not None:
                return axis
    return Shared()


def _repeated(call: Call, shape: tuple[int, ...]) -> Placements:
    repeats = [int(r) for r in call["repeats"]]
    more = len(repeats) - len(shape)
    grown = [d for d, r in enumerate(repeats) if r > 1]
    alike = frozenset(d for d in grown if d < more or shape[d - more] == 1)
    for d in grown:
        if d not in alike and repeats[d] == call.samples:
            return Sampled(d, 1, shape[d - more], repeated=True)
    return Shared(alike)
