"""A call that uses parameters, answered so that the way back tells the units apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from .functions import Known, Replicate, Rows, Spread
from .interception import Call, Kind, writes
from .layers.base import Layer
from .plan import Layout, UnknownSiteError, UnsupportedError
from .session import Session
from .units import Axis

ELEMENTWISE = {
    *("add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_", "true_divide", "multiply"),
    *("subtract", "divide", "where", "maximum", "minimum", "pow", "rsub", "lerp", "addcmul"),
    *("atan2", "hypot", "logaddexp", "copysign", "fmod", "remainder", "xlogy"),
}
"""Calls that broadcast their tensors and go element by element."""


class Forward(Protocol):
    """The forward pass that the call belongs to."""

    session: Session
    pools_statistics: bool

    def batch_norm_of(self, running_mean: Tensor | None) -> nn.modules.batchnorm._BatchNorm | None:
        """The module that owns these running statistics."""


class Taken:
    """One call taken over: its arguments with the place of the samples in each."""

    def __init__(self, forward: Forward, call: Call, layout: Layout) -> None:
        self.forward = forward
        self.session = forward.session
        self.units = forward.session.units
        self.call = call
        self.layout = layout
        self._axes = {
            id(tensor): axis
            for tensor, axis in zip(call.tensors, layout.arguments, strict=True)
            if axis is not None
        }
        self._kinds = {
            id(tensor): kind for tensor, kind in zip(call.tensors, call.kinds, strict=True)
        }

    def answer(self, layers: Mapping[Callable[..., Any], Callable[..., Any]]) -> Any:
        """The result of the call, by its known layer if there is one."""
        make = layers.get(self.call.function)
        if make is not None:
            result = make(self, *self.call.args, **self.call.kwargs)
            if result is not NotImplemented:
                return result
        if self.call.site.function in ELEMENTWISE:
            return self._element_by_element()
        return self._unit_by_unit()

    def axis(self, tensor: Tensor) -> Axis | None:
        """Where the samples lie in an argument."""
        return self._axes.get(id(tensor))

    def is_sampled(self, tensor: Tensor | None) -> bool:
        """Whether an argument holds samples and depends on no parameter alone."""
        return tensor is not None and self._kinds[id(tensor)] is None

    def run(self, layer: Layer, x: Tensor, *shared: Tensor | None) -> Tensor:
        """Apply a known layer."""
        uses, operands = [], []
        for tensor in shared:
            if tensor is None:
                continue
            kind = self._kinds.get(id(tensor))
            use = None
            if kind is not None and kind.origins and torch.is_grad_enabled():
                use, tensor = self.session.use(tensor, kind.origins)  # noqa: PLW2901
            uses.append(use)
            operands.append(tensor)
        result = Known.apply(layer, self.session, uses, self.session.anchor, x, *operands)  # type: ignore[no-untyped-call]
        assert isinstance(result, Tensor)
        return result

    def spread(self, tensor: Tensor, ndim: int, dim: int) -> Tensor:
        """A shared tensor, repeated for each sample along a dimension of a result."""
        kind = self._kinds[id(tensor)]
        if kind is None or not kind.origins or not torch.is_grad_enabled():
            return tensor
        at = dim - (ndim - tensor.ndim)
        axis = self.axis(tensor)
        use, operand = self.session.use(tensor, kind.origins)
        if axis is not None:
            return self._rows(use, operand, axis)
        if at >= 0 and tensor.shape[at] != 1:
            raise UnsupportedError(
                f"{self.call.site.function} pairs a parameter's dimension of "
                f"{tensor.shape[at]} with the samples"
            )
        result = Spread.apply(self.session, use, self.session.anchor, operand, ndim, dim)  # type: ignore[no-untyped-call]
        assert isinstance(result, Tensor)
        return result

    def _rows(self, use: Any, operand: Tensor, axis: Axis) -> Tensor:
        result = Rows.apply(self.session, use, self.session.anchor, operand, axis)  # type: ignore[no-untyped-call]
        assert isinstance(result, Tensor)
        return result

    def _element_by_element(self) -> Any:
        tensors = self.call.tensors
        ndim = max(tensor.ndim for tensor in tensors)
        places = {
            (axis.dim + ndim - tensor.ndim, axis)
            for tensor in tensors
            if (axis := self.axis(tensor)) is not None and self._kinds[id(tensor)] is None
        }
        if len({dim for dim, _ in places}) != 1 or any(axis.per_sample != 1 for _, axis in places):
            return self._unit_by_unit()
        ((dim, _),) = places
        return self.call.with_tensors([self.spread(tensor, ndim, dim) for tensor in tensors])

    def _unit_by_unit(self) -> Any:
        function, count = self.call.function, self.units.count
        name = self.call.site.function
        if writes(function) or "out" in self.call.kwargs:
            raise UnsupportedError(f"{name} writes in place what depends on parameters")
        columns = [
            self._by_unit(tensor, kind, axis)
            for tensor, kind, axis in zip(
                self.call.tensors, self.call.kinds, self.layout.arguments, strict=True
            )
        ]
        trees = [
            tree_flatten(self.call.with_tensors([column[unit] for column in columns]))
            for unit in range(count)
        ]
        spec = trees[0][1]
        if any(other != spec for _, other in trees):
            raise UnsupportedError(f"{name} returns different structures for different domains")
        results = [
            parts[0] if axis is None else axis.join(parts)
            for axis, parts in zip(
                self._result_axes(len(trees[0][0])),
                zip(*(leaves for leaves, _ in trees), strict=True),
                strict=True,
            )
        ]
        return tree_unflatten(results, spec)

    def _result_axes(self, count: int) -> tuple[Axis | None, ...]:
        if len(self.layout.results) != count:
            raise UnknownSiteError(self.call.site)
        return self.layout.results

    def _by_unit(self, tensor: Tensor, kind: Kind | None, axis: Axis | None) -> Sequence[Tensor]:
        count = self.units.count
        if kind is not None and kind.origins and torch.is_grad_enabled():
            use, operand = self.session.use(tensor, kind.origins)
            if axis is not None:
                return axis.split(self._rows(use, operand, axis), self.units)
            copies = Replicate.apply(self.session, use, self.session.anchor, operand)  # type: ignore[no-untyped-call]
            return list(copies)
        return [tensor] * count if axis is None else axis.split(tensor, self.units)
