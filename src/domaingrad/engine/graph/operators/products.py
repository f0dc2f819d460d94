"""Products of matrices and vectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...gradients import Products
from ...units import Units
from ..layout import PerUnit, Placement, Sampled, Shared
from .registry import Call, Outcome, require_alike, rule

aten = torch.ops.aten


@rule(aten.mm)
def mm(call: Call) -> Outcome:
    """[i, k] · [k, j]; summed over samples, one product a unit."""
    left, right = call.at(call["self"]), call.at(call["mat2"])
    placement = _product(call, left, right, call["self"], call["mat2"], batch=0)
    if isinstance(placement, PerUnit):
        axis = left if isinstance(left, Sampled) else right
        assert isinstance(axis, Sampled)
        return Outcome(placement, _UnitProducts(axis))
    return Outcome(placement)


@rule(aten.bmm)
def bmm(call: Call) -> Outcome:
    """[b, i, k] · [b, k, j]."""
    left, right = call.at(call["self"]), call.at(call["mat2"])
    return Outcome(_product(call, left, right, call["self"], call["mat2"], batch=1))


@rule(aten.addmm, aten.baddbmm)
def addmm(call: Call) -> Outcome:
    """A product and something added."""
    batched = call.op.overloadpacket is aten.baddbmm
    left, right = ("batch1", "batch2") if batched else ("mat1", "mat2")
    placement = _product(
        call, call.at(call[left]), call.at(call[right]), call[left], call[right], int(batched)
    )
    if not isinstance(placement, Sampled):
        raise call.mixes()
    own = call.at(call["self"])
    ndim = len(call.shape())
    if isinstance(own, Sampled):
        if own.moved(own.dim + ndim - len(call.shape(call["self"]))) != placement:
            raise call.mixes()
    else:
        require_alike(call, placement.dim, [call["self"]], ndim)
    return Outcome(placement)


def _product(
    call: Call, left: Placement, right: Placement, a: Any, b: Any, batch: int
) -> Placement:
    """Where the samples lie in a product of [*batch, i, k] and [*batch, k, j]."""
    rows, inner = batch, batch + 1
    left, right = _as_long(call, left, right, a, inner), _as_long(call, right, left, b, rows)
    samples = [p for p in (left, right) if isinstance(p, Sampled)]
    if batch and any(p.dim == 0 for p in samples):
        for placement, node in ((left, a), (right, b)):
            if isinstance(placement, Sampled):
                if placement != samples[0]:
                    raise call.mixes()
            else:
                require_alike(call, 0, [node], 3)
        return next((p for p in samples if not p.repeated), samples[0])
    sums_left = isinstance(left, Sampled) and left.dim == inner
    sums_right = isinstance(right, Sampled) and right.dim == rows
    if sums_left or sums_right:
        if not (sums_left and sums_right and _aligned(left, right)) or not call.in_backward:
            raise call.mixes()
        return PerUnit()
    if len(samples) == 2:
        raise call.mixes()
    return samples[0]


def _as_long(call: Call, own: Placement, other: Placement, node: Any, dim: int) -> Placement:
    """What is alike along the dimension that another tensor's samples are summed over."""
    summed = isinstance(other, Sampled) and other.plain and other.dim != dim
    free = isinstance(own, Shared) and dim in own.free
    if summed and free and call.shape(node)[dim] == call.samples and call.in_backward:
        return Sampled(dim, repeated=True)
    return own


def _aligned(left: Placement, right: Placement) -> bool:
    assert isinstance(left, Sampled)
    assert isinstance(right, Sampled)
    return (left.outer, left.inner) == (right.outer, right.inner) and not (
        left.repeated and right.repeated
    )


class _UnitProducts:
    """g_eᵀ x_e for each unit, computed when it is asked for."""

    def __init__(self, left: Sampled) -> None:
        self._left = left

    def __call__(self, units: Units, a: Tensor, b: Tensor) -> Products:
        """The gradients of y = x Wᵀ with respect to W, for a = gᵀ and b = x."""
        g = a.t()
        if self._left.outer != 1:
            axis = self._left.moved(0)
            g, b = (axis.first(x, units).flatten(0, 1) for x in (g, b))
        return Products((a.shape[0], b.shape[1]), b, g, units)


@rule(aten.mv)
def mv(call: Call) -> Outcome:
    """[i, k] · [k]."""
    left, right = call.at(call["self"]), call.at(call["vec"])
    if isinstance(left, Sampled) and left.dim == 0 and isinstance(right, (Shared, PerUnit)):
        return Outcome(left)
    summed = isinstance(left, Sampled) and left.dim == 1 and isinstance(right, Sampled)
    if summed and call.in_backward and _aligned(left, right):
        return Outcome(PerUnit())
    raise call.mixes()


@rule(aten._trilinear)
def trilinear(call: Call) -> Outcome:
    """Σ over some dimensions of a product of three tensors with dimensions put in."""
    ndim = 4
    found: list[Sampled] = []
    others = []
    for which in ("1", "2", "3"):
        node, put_in = call["i" + which], [d % ndim for d in call["expand" + which]]
        place = call.at(node)
        kept = [d for d in range(ndim) if d not in put_in]
        if isinstance(place, Sampled):
            found.append(place.moved(kept[place.dim]))
        else:
            others.append(kept)
    if any(axis != found[0] for axis in found) or any(found[0].dim in kept for kept in others):
        raise call.mixes()
    axis, summed = found[0], [d % ndim for d in call["sumdim"]]
    if axis.dim in summed:
        if not call.in_backward:
            raise call.mixes()
        return Outcome(PerUnit())
    return Outcome(axis.moved(axis.dim - sum(d < axis.dim for d in summed)))
