"""Convolutions and transposed convolutions of one to three dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from domaingrad.rules.statistics import accumulation_dtype

from ..gradients import TILE, Products, Stacked, UnitGradients, moments_of
from ..scratch import Scratch
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
        elif wanted[0] and self._by_sample(weight):
            found[0] = Patches(self, weight, x, g)
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

    def _by_sample(self, weight: Tensor) -> bool:
        plain = not self.transposed and self.groups == 1 and weight.ndim == 4
        return plain and self.units.count == self.units.samples

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

    def moments(self, scratch: Scratch) -> tuple[Tensor, Tensor]:
        """One unit's gradient at a time."""
        total = torch.zeros(self.shape, dtype=accumulation_dtype(self.dtype), device=self.device)
        squares = torch.zeros_like(total)
        sizes = list(self._layer.units.sizes)
        parts = (torch.split_with_sizes(t, sizes) for t in (self._x, self._g))
        for x, g in zip(*parts, strict=True):
            gradient = self._layer.library(g, x, self._weight, (False, True, False))[1].to(total)
            total += gradient
            squares.addcmul_(gradient, gradient)
        return total.div_(self.count), squares.div_(self.count)


class Patches(Slices):
    """Each sample's weight gradient as a product over its patches, some samples at a time."""

    def moments(self, scratch: Scratch) -> tuple[Tensor, Tensor]:
        """From the products of some samples after the other."""
        kernel, layer = self._weight.shape[2:], self._layer
        mean = torch.zeros(self.shape, dtype=accumulation_dtype(self.dtype), device=self.device)
        square = torch.zeros_like(mean)
        positions = prod(self._g.shape[2:])
        largest = max(prod(self.shape), prod(self.shape[1:]) * positions)
        step = max(1, TILE // largest)
        for start in range(0, len(self._x), step):
            some = slice(start, start + step)
            columns = F.unfold(self._x[some], kernel, layer.dilation, layer.padding, layer.stride)
            g = self._g[some].flatten(2)
            stack = scratch.take((len(g), g.shape[1], columns.shape[1]), self.dtype, self.device)
            torch.bmm(g, columns.transpose(1, 2), out=stack)
            for whole, part in zip((mean, square), moments_of(stack.flatten(1)), strict=True):
                whole.add_(part.view(self.shape), alpha=len(g) / self.count)
        return mean, square
