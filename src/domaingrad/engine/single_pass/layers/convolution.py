"""Convolutions and transposed convolutions of one to three dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ..gradients import Products, Stacked, UnitGradients
from ..units import Axis, Units
from .base import Layer

FEW_POSITIONS = 128
"""Up to this many output positions a unit, one matrix product over copied patches is faster on a
CPU than the library's weight gradient (measured: benchmarks/reduction.py)."""


@dataclass
class Convolution(Layer):
    """y = x ∗ w + b, with samples along the first dimension of x."""

    lowered = True

    units: Units
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int

    def forward(self, x: Tensor, *shared: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The output."""
        weight, bias = shared[0], shared[1] if len(shared) > 1 else None
        y = torch.convolution(
            x,
            weight,
            bias,
            self.stride,
            self.padding,
            self.dilation,
            self.transposed,
            self.output_padding,
            self.groups,
        )
        return y, (x, *shared)

    def backward(
        self, g: Tensor, saved: tuple[Tensor, ...], input_wanted: bool, wanted: tuple[bool, ...]
    ) -> tuple[Tensor | None, list[UnitGradients | None]]:
        """The library's weight gradient unit by unit, or products over patches."""
        x, weight, *bias = saved
        found: list[UnitGradients | None] = [None] * len(wanted)
        if wanted[0] and self._by_patches(weight, g):
            found[0] = self._products(x, weight, g)
        elif wanted[0]:
            found[0] = Slices(self, weight, x, g)
        if bias and wanted[1]:
            found[1] = Stacked(bias[0], self.units.sums(g.flatten(2).sum(2)))
        if not input_wanted:
            return None, found
        return self.library(g, x, weight, (True, False, False))[0], found

    def _by_patches(self, weight: Tensor, g: Tensor) -> bool:
        plain = not self.transposed and self.groups == 1 and weight.ndim == 4
        return plain and max(self.units.sizes) * prod(g.shape[2:]) <= FEW_POSITIONS

    def _products(self, x: Tensor, weight: Tensor, g: Tensor) -> Products:
        kernel = weight.shape[2:]
        columns = F.unfold(x, kernel, self.dilation, self.padding, self.stride)
        first = Axis(0)
        return Products(
            weight,
            first.rows(columns.transpose(1, 2), self.units),
            first.rows(g.flatten(2).transpose(1, 2), self.units),
            self.units,
        )

    def library(
        self, g: Tensor, x: Tensor, weight: Tensor, wanted: tuple[bool, bool, bool]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of x, weight and bias as the library computes them."""
        return cast(
            tuple[Tensor, Tensor, Tensor],
            torch.ops.aten.convolution_backward(
                g,
                x,
                weight,
                None,
                self.stride,
                self.padding,
                self.dilation,
                self.transposed,
                self.output_padding,
                self.groups,
                wanted,
            ),
        )


class Slices(UnitGradients):
    """The library's weight gradient of each unit's part of the batch."""

    def __init__(self, layer: Convolution, weight: Tensor, x: Tensor, g: Tensor) -> None:
        super().__init__(weight, g.dtype, layer.units.count)
        self._layer, self._weight, self._x, self._g = layer, weight, x, g

    def fill(self, rows: slice, out: Tensor) -> None:
        """One call a unit."""
        sizes = list(self._layer.units.sizes)
        parts = zip(
            torch.split_with_sizes(self._x, sizes),
            torch.split_with_sizes(self._g, sizes),
            out.unbind(0),
            strict=True,
        )
        for x, g, target in parts:
            gradient = self._layer.library(g, x, self._weight, (False, True, False))[1]
            target.copy_(gradient[rows])
