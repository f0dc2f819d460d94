"""The forward pass of a mixed batch, with each use of a parameter taken over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten, tree_unflatten

from .functions import Known, Replicate, Rows, Spread
from .interception import Call, Interception, Kind, Site, writes
from .layers.base import Layer
from .layers.convolution import Convolution
from .layers.embedding import Embedding
from .layers.linear import Linear
from .layers.norms import BatchNorm, GroupNorm, LayerNorm
from .session import Session
from .units import Axis


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the samples lie in the tensors of a call: arguments in flat order, and results."""

    arguments: tuple[Axis | None, ...]
    results: tuple[Axis | None, ...]

    def fits(self, leaves: Sequence[Any], samples: int) -> bool:
        """Whether arguments can have their samples there."""
        return len(leaves) == len(self.arguments) and all(
            axis is None or (isinstance(leaf, Tensor) and axis.fits(leaf, samples))
            for leaf, axis in zip(leaves, self.arguments, strict=True)
        )

    def holds_samples(self, kinds: Sequence[Kind | None]) -> bool:
        """Whether any argument that is neither shared nor constant has an axis of samples."""
        return any(
            axis is not None and kind is None
            for kind, axis in zip(kinds, self.arguments, strict=True)
        )


@dataclass
class Plan:
    """What is known of a model: where the samples lie in each call."""

    layouts: dict[Site, Layout]
    comes_back: bool = False
    """Whether parts of the model run again on the way back (checkpoints)."""


class UnknownSiteError(Exception):
    """A call that the plan does not know: the model took another way than before."""


class UnsupportedError(Exception):
    """A call that cannot be told apart unit by unit."""


ELEMENTWISE = {
    *("add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_", "true_divide", "multiply"),
    *("subtract", "divide", "where", "maximum", "minimum", "pow", "rsub", "lerp", "addcmul"),
    *("atan2", "hypot", "logaddexp", "copysign", "fmod", "remainder", "xlogy"),
}
"""Calls that broadcast their tensors and go element by element."""


class MixedForward(Interception):
    """Takes over each call with parameters, so that the way back tells the units apart.

    Known layers compute their input gradient at once and their weights' gradients unit by unit; in
    element-wise calls the shared tensor is spread over the samples; any other call is made once a
    unit.

    Args:
        model: the model that is run.
        parameters: what is trained.
        session: where the gradients go.
        plan: where the samples lie in each call.
    """

    def __init__(
        self, model: nn.Module, parameters: Sequence[nn.Parameter], session: Session, plan: Plan
    ) -> None:
        super().__init__(model, parameters)
        self.session = session
        self._plan = plan
        self.comes_back = False
        self._norms = {
            id(module.running_mean): module
            for module in model.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
            and module.running_mean is not None
        }

    def passive(self) -> bool:
        """Calls of our own backward are let through."""
        return self.session.inside

    def take(self, call: Call) -> Any:
        """By its layer, by spreading, or once a unit."""
        self.comes_back |= self.session.walking
        layout = self._layout(call)
        if not layout.holds_samples(call.kinds):
            result = call.native()
            self.mark(result, call.site.origins)
            return result
        if not torch.is_grad_enabled():
            self.session.used_without_graph(call.site.origins)
        return Taken(self, call, layout).answer()

    def _layout(self, call: Call) -> Layout:
        """The plan's layout for this call; a checkpoint comes by once more on the way back."""
        sites = [call.site]
        if self.session.walking:
            sites = [replace(call.site, occurrence=o + 1) for o in range(call.site.occurrence)]
        for site in sites:
            layout = self._plan.layouts.get(site)
            if layout is not None and layout.fits(call.leaves, self.session.units.samples):
                return layout
        raise UnknownSiteError(call.site)

    def batch_norm_of(self, running_mean: Tensor | None) -> nn.modules.batchnorm._BatchNorm | None:
        """The module that owns these running statistics."""
        return self._norms.get(id(running_mean))


class Taken:
    """One call taken over: its arguments with the place of the samples in each."""

    def __init__(self, forward: MixedForward, call: Call, layout: Layout) -> None:
        self.forward = forward
        self.session = forward.session
        self.units = forward.session.units
        self.call = call
        self.layout = layout
        self._axes = {
            id(leaf): axis
            for leaf, axis in zip(call.leaves, layout.arguments, strict=True)
            if axis is not None
        }
        self._kinds = {id(leaf): kind for leaf, kind in zip(call.leaves, call.kinds, strict=True)}

    def answer(self) -> Any:
        """The result of the call."""
        make = LAYERS.get(self.call.function)
        if make is not None:
            args, kwargs = self.call.arguments
            result = make(self, *args, **kwargs)
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
        tensors = [leaf for leaf in self.call.leaves if isinstance(leaf, Tensor)]
        ndim = max(tensor.ndim for tensor in tensors)
        places = {
            (axis.dim + ndim - tensor.ndim, axis)
            for tensor in tensors
            if (axis := self.axis(tensor)) is not None and self._kinds[id(tensor)] is None
        }
        if len({dim for dim, _ in places}) != 1 or any(axis.per_sample != 1 for _, axis in places):
            return self._unit_by_unit()
        ((dim, _),) = places
        leaves = [
            self.spread(leaf, ndim, dim) if isinstance(leaf, Tensor) else leaf
            for leaf in self.call.leaves
        ]
        args, kwargs = tree_unflatten(leaves, self.call.spec)
        return self.call.function(*args, **kwargs)

    def _unit_by_unit(self) -> Any:
        function, count = self.call.function, self.units.count
        name = self.call.site.function
        if writes(function) or "out" in self.call.arguments[1]:
            raise UnsupportedError(f"{name} writes in place what depends on parameters")
        columns = [
            self._by_unit(leaf, kind, axis)
            for leaf, kind, axis in zip(
                self.call.leaves, self.call.kinds, self.layout.arguments, strict=True
            )
        ]
        trees = []
        for unit in range(count):
            args, kwargs = tree_unflatten([column[unit] for column in columns], self.call.spec)
            trees.append(tree_flatten(function(*args, **kwargs)))
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

    def _by_unit(self, leaf: Any, kind: Kind | None, axis: Axis | None) -> Sequence[Any]:
        count = self.units.count
        if not isinstance(leaf, Tensor):
            return [leaf] * count
        if kind is not None and kind.origins and torch.is_grad_enabled():
            use, operand = self.session.use(leaf, kind.origins)
            if axis is not None:
                return axis.split(self._rows(use, operand, axis), self.units)
            copies = Replicate.apply(self.session, use, self.session.anchor, operand)  # type: ignore[no-untyped-call]
            return list(copies)
        return [leaf] * count if axis is None else axis.split(leaf, self.units)


def _lower(x: Tensor) -> Tensor:
    """The input of a layer that autocast runs in lower precision."""
    device = x.device.type
    if torch.is_autocast_enabled(device) and x.is_floating_point() and x.dtype != torch.float64:
        return x.to(torch.get_autocast_dtype(device))
    return x


def _full(x: Tensor) -> Tensor:
    """The input of a norm, which autocast runs in full precision on a GPU."""
    device = x.device.type
    return x.float() if device == "cuda" and torch.is_autocast_enabled(device) else x


def _linear(taken: Taken, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:  # noqa: A002
    axis = taken.axis(input)
    if axis is None or taken.axis(weight) or taken.is_sampled(weight) or weight.ndim != 2:
        return NotImplemented
    if axis.dim == input.ndim - 1 or (bias is not None and taken.axis(bias)):
        return NotImplemented
    return taken.run(Linear(taken.units, axis), _lower(input), weight, bias)


def _matmul(taken: Taken, input: Tensor, other: Tensor) -> Any:  # noqa: A002
    axis = taken.axis(input)
    if axis is None or taken.axis(other) or taken.is_sampled(other) or other.ndim != 2:
        return NotImplemented
    if axis.dim == input.ndim - 1 or input.ndim < 2:
        return NotImplemented
    return taken.run(Linear(taken.units, axis, flipped=True), _lower(input), other)


def _convolution(dimensions: int, transposed: bool) -> Callable[..., Any]:
    def tuple_of(value: Any) -> tuple[int, ...]:
        values = (value,) if isinstance(value, int) else tuple(value)
        return values * dimensions if len(values) == 1 else values

    def run(
        taken: Taken,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Any,
        padding: Any,
        dilation: Any,
        output_padding: Any,
        groups: int,
    ) -> Any:
        plain = taken.axis(x) == Axis(0) and taken.axis(weight) is None
        if not plain or taken.is_sampled(weight) or x.ndim != dimensions + 2:
            return NotImplemented
        if isinstance(padding, str):
            x, padding = _padded(x, weight, padding, tuple_of(dilation))
        layer = Convolution(
            taken.units,
            tuple_of(stride),
            tuple_of(padding),
            tuple_of(dilation),
            transposed,
            tuple_of(output_padding),
            groups,
        )
        return taken.run(layer, _lower(x), weight, bias)

    def convolve(
        taken: Taken,
        input: Tensor,  # noqa: A002
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Any:
        return run(taken, input, weight, bias, stride, padding, dilation, 0, groups)

    def convolve_transposed(
        taken: Taken,
        input: Tensor,  # noqa: A002
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Any:
        return run(taken, input, weight, bias, stride, padding, dilation, output_padding, groups)

    return convolve_transposed if transposed else convolve


def _padded(
    x: Tensor, weight: Tensor, padding: str, dilation: tuple[int, ...]
) -> tuple[Tensor, Any]:
    """Padding by name as numbers; what is uneven is added to x, more of it at the end."""
    if padding == "valid":
        return x, 0
    totals = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    uneven = [total % 2 for total in totals]
    if any(uneven):
        x = F.pad(x, [side for extra in reversed(uneven) for side in (0, extra)])
    return x, [total // 2 for total in totals]


def _layer_norm(
    taken: Taken,
    input: Tensor,  # noqa: A002
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    _cudnn_enabled: bool = True,
) -> Any:
    axis = taken.axis(input)
    if axis is None or weight is None or taken.is_sampled(weight) or axis.interleaved:
        return NotImplemented
    if axis.dim >= input.ndim - len(normalized_shape):
        return NotImplemented
    layer = LayerNorm(taken.units, axis, tuple(normalized_shape), eps)
    return taken.run(layer, _full(input), weight, bias)


def _group_norm(
    taken: Taken,
    input: Tensor,  # noqa: A002
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    _cudnn_enabled: bool = True,
) -> Any:
    if taken.axis(input) != Axis(0) or weight is None or taken.is_sampled(weight):
        return NotImplemented
    return taken.run(GroupNorm(taken.units, num_groups, eps), _full(input), weight, bias)


def _rms_norm(
    taken: Taken,
    input: Tensor,  # noqa: A002
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Any:
    axis = taken.axis(input)
    if axis is None or weight is None or axis.dim >= input.ndim - len(normalized_shape):
        return NotImplemented
    if axis.per_sample != 1:
        return NotImplemented
    normalized = torch.rms_norm(input, tuple(normalized_shape), None, eps)
    return normalized * taken.spread(weight, input.ndim, axis.dim)


def _instance_norm(
    taken: Taken,
    input: Tensor,  # noqa: A002
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = True,
) -> Any:
    keeps_statistics = use_input_stats and running_mean is not None
    if keeps_statistics or taken.axis(input) != Axis(0):
        return NotImplemented
    y = torch.instance_norm(
        input, None, None, running_mean, running_var, use_input_stats, momentum, eps, cudnn_enabled
    )
    channels = (-1, *(1,) * (input.ndim - 2))
    for tensor, operation in ((weight, torch.mul), (bias, torch.add)):
        if tensor is not None:
            spread = taken.spread(tensor, 2, 0)
            y = operation(y, spread.reshape(*spread.shape[:-1], *channels))
    return y


def _functional_instance_norm(
    taken: Taken,
    input: Tensor,  # noqa: A002
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    return _instance_norm(
        taken, input, weight, bias, running_mean, running_var, use_input_stats, momentum, eps
    )


def _batch_norm(
    taken: Taken,
    input: Tensor,  # noqa: A002
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    _cudnn_enabled: bool = True,
) -> Any:
    if taken.axis(input) != Axis(0) or (weight is None and bias is not None):
        return NotImplemented
    count = taken.units.count
    momenta = [momentum] * count
    module = taken.forward.batch_norm_of(running_mean)
    if training and module is not None and module.num_batches_tracked is not None:
        if module.momentum is None:
            first = int(module.num_batches_tracked)
            momenta = [1.0 / (first + unit) for unit in range(count)]
        module.num_batches_tracked.add_(count - 1)
    running = None
    if running_mean is not None and running_var is not None:
        running = running_mean, running_var
    layer = BatchNorm(taken.units, running, training, tuple(momenta), eps)
    return taken.run(layer, input, weight, bias)


def _functional_batch_norm(
    taken: Taken,
    input: Tensor,  # noqa: A002
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    return _batch_norm(
        taken, input, weight, bias, running_mean, running_var, training, momentum, eps
    )


def _embedding(
    taken: Taken,
    weight: Tensor,
    indices: Tensor,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    axis = taken.axis(indices)
    if axis is None or sparse or taken.is_sampled(weight) or taken.axis(weight):
        return NotImplemented
    layer = Embedding(taken.units, axis, padding_idx, scale_grad_by_freq)
    return taken.run(layer, indices, weight)


LAYERS: dict[Callable[..., Any], Callable[..., Any]] = {
    F.linear: _linear,
    torch.matmul: _matmul,
    Tensor.matmul: _matmul,
    torch.mm: _matmul,
    Tensor.mm: _matmul,
    torch.conv1d: _convolution(1, False),
    torch.conv2d: _convolution(2, False),
    torch.conv3d: _convolution(3, False),
    torch.conv_transpose1d: _convolution(1, True),
    torch.conv_transpose2d: _convolution(2, True),
    torch.conv_transpose3d: _convolution(3, True),
    torch.layer_norm: _layer_norm,
    torch.group_norm: _group_norm,
    torch.rms_norm: _rms_norm,
    torch.instance_norm: _instance_norm,
    F.instance_norm: _functional_instance_norm,
    torch.batch_norm: _batch_norm,
    F.batch_norm: _functional_batch_norm,
    torch.embedding: _embedding,
}
"""The known layers, by the function that computes them."""
