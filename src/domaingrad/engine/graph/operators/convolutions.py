"""Convolutions and transposed convolutions of one to three dimensions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...convolutions import Convolution, convolution_gradients
from ...gradients import Stacked
from ...units import Units
from ..layout import PerUnit, Sampled
from .registry import Call, Outcome, rule

aten = torch.ops.aten


@rule(aten.convolution)
def convolution(call: Call) -> Outcome:
    """Samples along the first dimension; weight and bias are shared."""
    axis = call.at(call["input"])
    others = [call.at(x) for x in (call["weight"], call["bias"])]
    if (
        not isinstance(axis, Sampled)
        or axis.dim != 0
        or any(isinstance(p, Sampled) for p in others)
    ):
        raise call.refuse("convolves samples with a weight of their own, or along the samples")
    return Outcome(axis)


@rule(aten.convolution_backward)
def convolution_backward(call: Call) -> Outcome:
    """The gradient of the input at once, those of weight and bias unit by unit."""
    g, x = call.at(call["grad_output"]), call.at(call["input"])
    if not isinstance(g, Sampled) or g != x or g.dim != 0 or not call.in_backward:
        raise call.mixes()
    run = _Backward(g) if not isinstance(call.at(call["weight"]), PerUnit) else None
    return Outcome((g, PerUnit(), PerUnit()), run)


class _Backward:
    """The three gradients of a convolution."""

    def __init__(self, axis: Sampled) -> None:
        self._axis = axis

    def __call__(
        self,
        units: Units,
        g: Tensor,
        x: Tensor,
        weight: Tensor,
        bias_sizes: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        transposed: bool,
        output_padding: Any,
        groups: int,
        mask: list[bool],
    ) -> tuple[Any, Any, Any]:
        """Only those that the mask wants."""
        how = Convolution(stride, padding, dilation, transposed, output_padding, groups)
        own_x = own_weight = own_bias = None
        rows = g.shape[0] // units.samples
        if mask[0]:
            own_x = how.backward(g, x, weight, (True, False, False))[0]
        if (mask[1] or mask[2]) and not self._axis.plain:
            g, x = (_by_sample(self._axis, t, units) for t in (g, x))
        if mask[1]:
            own_weight = convolution_gradients(how, x, weight, g, units, rows)
        if mask[2]:
            axis = Sampled(0, 1, rows)
            own_bias = Stacked(axis.sums(g, units, [0, *range(2, g.ndim)]))
        return own_x, own_weight, own_bias


def _by_sample(axis: Sampled, x: Tensor, units: Units) -> Tensor:
    """Sample after sample, each with all its rows side by side."""
    return x if axis.outer == 1 else axis.first(x, units).flatten(0, 1)
