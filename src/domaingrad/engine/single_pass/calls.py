"""The known layers, by the functions of PyTorch that compute them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .layers.convolution import Convolution
from .layers.embedding import Embedding
from .layers.linear import Linear
from .layers.norms import BatchNorm, GroupNorm, LayerNorm, PooledBatchNorm
from .taken import Taken
from .units import Axis


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
    running = None
    if running_mean is not None and running_var is not None:
        running = running_mean, running_var
    if not training or taken.forward.pools_statistics:
        pooled = PooledBatchNorm(taken.units, running, training, momentum, eps)
        return taken.run(pooled, input, weight, bias)
    count = taken.units.count
    momenta = [momentum] * count
    module = taken.forward.batch_norm_of(running_mean)
    if training and module is not None and module.num_batches_tracked is not None:
        if module.momentum is None:
            first = int(module.num_batches_tracked)
            momenta = [1.0 / (first + unit) for unit in range(count)]
        module.num_batches_tracked.add_(count - 1)
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
