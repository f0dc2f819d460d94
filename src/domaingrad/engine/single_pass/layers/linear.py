"""Linear maps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..gradients import Products, Stacked, UnitGradients
from ..units import Axis, Units
from .base import Layer


@dataclass
class Linear(Layer):
    """y = x Wᵀ + b, for x of any number of dimensions.

    Args:
        units: the units in the batch.
        axis: where the samples lie in x.
        flipped: the weight is Wᵀ, as in ``x @ weight``.
    """

    lowered = True

    units: Units
    axis: Axis
    flipped: bool = False

    def forward(self, x: Tensor, *shared: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The output."""
        y = torch.matmul(x, shared[0]) if self.flipped else F.linear(x, *shared)
        return y, (x, *shared)

    def backward(
        self, g: Tensor, saved: tuple[Tensor, ...], input_wanted: bool, wanted: tuple[bool, ...]
    ) -> tuple[Tensor | None, list[UnitGradients | None]]:
        """G W; g_eᵀ x_e; the sum of g_e over positions."""
        x, weight, *bias = saved
        found: list[UnitGradients | None] = [None] * len(wanted)
        if wanted[0]:
            inputs, outputs = self.axis.rows(x, self.units), self.axis.rows(g, self.units)
            pair = (outputs, inputs) if self.flipped else (inputs, outputs)
            found[0] = Products(weight, *pair, self.units)
        if bias and wanted[1]:
            found[1] = Stacked(bias[0], self.axis.sums(g, self.units))
        if not input_wanted:
            return None, found
        return torch.matmul(g, weight.t() if self.flipped else weight), found
