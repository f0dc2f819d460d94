"""Convolutions and transposed convolutions of one to three dimensions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from domaingrad.rules.statistics import accumulation_dtype

from .gradients import TILE, Products, UnitGradients, moments_of
from .scratch import Scratch
from .units import Units

FEW_POSITIONS = 128
"""Up to this many output positions a unit, one matrix product over copied patches is faster on a
CPU than the library's weight gradient (measured: benchmarks/reduction.py)."""


@dataclass(frozen=True)
class Convolution:
    """How y = x ∗ w + b is computed, for samples along the first dimension of x."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int

    def backward(
        self, g: Tensor, x: Tensor, weight: Tensor, wanted: tuple[bool, bool, bool]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of x, weight and bias as the library computes them."""
        return cast(
            tuple[Tensor, Tensor, Tensor],
            torch.ops.aten.convolution_backward(
                g,
                x,
                weight,
                [0],
                self.stride,
                self.padding,
                self.dilation,
                self.transposed,
                self.output_padding,
                self.groups,
                wanted,
            ),
        )

    def is_plain(self, weight: Tensor) -> bool:
        """Whether its patches can be laid side by side."""
        return not self.transposed and self.groups == 1 and weight.ndim == 4


def convolution_gradients(
    how: Convolution, x: Tensor, weight: Tensor, g: Tensor, units: Units, rows: int
) -> UnitGradients:
    """The units' gradients of the weight.

    Args:
        how: the convolution.
        x: inputs, sample after sample.
        weight: the weight.
        g: gradients of the outputs.
        units: the units.
        rows: of each sample in ``x`` and ``g``.
    """
    few = not units.turn and max(units.sizes) * rows * prod(g.shape[2:]) <= FEW_POSITIONS
    if how.is_plain(weight) and few:
        columns = F.unfold(x, weight.shape[2:], how.dilation, how.padding, how.stride)
        return Products(
            weight.shape,
            columns.transpose(1, 2).reshape(-1, columns.shape[1]),
            g.flatten(2).transpose(1, 2).reshape(-1, g.shape[1]),
            units,
        )
    if how.is_plain(weight) and units.count == units.samples and rows == 1:
        return Patches(how, weight, x, g, units)
    return Slices(how, weight, x, g, units.times(rows))


class Slices(UnitGradients):
    """The library's weight gradient of each unit's part of the batch."""

    def __init__(
        self, how: Convolution, weight: Tensor, x: Tensor, g: Tensor, units: Units
    ) -> None:
        super().__init__(weight.shape, g, units.count)
        self._how, self._weight, self._x, self._g = how, weight, x, g
        self._units = units

    def fill(self, rows: slice, out: Tensor) -> None:
        """One call a unit, or one for all."""
        if self._units.turn:
            out.copy_(self.tensor()[:, rows])
            return
        for gradient, target in zip(self._each(), out.unbind(0), strict=True):
            target.copy_(gradient[rows])

    def tensor(self) -> Tensor:
        """Likewise; what is joined along the rows is written to its place."""
        if self._units.turn:
            return self._in_groups()
        return torch.cat(list(self._each())).view(self.count, *self.shape)

    def _in_groups(self) -> Tensor:
        """One call for units that take turns, each of them a group of channels."""
        how = replace(self._how, groups=self._how.groups * self.count)
        x, g = (side_by_side(tensor, self._units) for tensor in (self._x, self._g))
        like = self._weight.new_empty((self.count * self.shape[0], *self.shape[1:]))
        return how.backward(g, x, like, (False, True, False))[1].view(self.count, *self.shape)

    def _each(self) -> Iterator[Tensor]:
        sizes = list(self._units.sizes)
        parts = (torch.split_with_sizes(t, sizes) for t in (self._x, self._g))
        for x, g in zip(*parts, strict=True):
            yield self._how.backward(g, x, self._weight, (False, True, False))[1]

    def moments(self, scratch: Scratch) -> tuple[Tensor, Tensor]:
        """One unit's gradient at a time."""
        total = torch.zeros(self.shape, dtype=accumulation_dtype(self.dtype), device=self.device)
        squares = torch.zeros_like(total)
        for each in self._each():
            gradient = each.to(total)
            total += gradient
            squares.addcmul_(gradient, gradient)
        return total.div_(self.count), squares.div_(self.count)


def side_by_side(tensor: Tensor, units: Units) -> Tensor:
    """From [N, C, …] of units that take turns to [N / K, K · C, …]; mostly a view."""
    apart = torch.unflatten(tensor, 0, (-1, units.count, units.turn))
    return apart.movedim(1, 2).flatten(2, 3).flatten(0, 1)


def after_one_another(tensor: Tensor, units: Units) -> Tensor:
    """The inverse of :func:`side_by_side`."""
    apart = torch.unflatten(tensor, 1, (units.count, -1))
    apart = torch.unflatten(apart, 0, (-1, units.turn))
    return apart.movedim(2, 1).flatten(0, 2)


class Patches(Slices):
    """Each sample's weight gradient as a product over its patches, some samples at a time."""

    def moments(self, scratch: Scratch) -> tuple[Tensor, Tensor]:
        """From the products of some samples after the other."""
        kernel, how = self._weight.shape[2:], self._how
        mean = torch.zeros(self.shape, dtype=accumulation_dtype(self.dtype), device=self.device)
        square = torch.zeros_like(mean)
        positions = prod(self._g.shape[2:])
        largest = max(prod(self.shape), prod(self.shape[1:]) * positions)
        step = max(1, TILE // largest)
        for start in range(0, len(self._x), step):
            some = slice(start, start + step)
            columns = F.unfold(self._x[some], kernel, how.dilation, how.padding, how.stride)
            g = self._g[some].flatten(2)
            stack = scratch.take((len(g), g.shape[1], columns.shape[1]), self.dtype, self.device)
            torch.bmm(g, columns.transpose(1, 2), out=stack)
            for whole, part in zip((mean, square), moments_of(stack.flatten(1)), strict=True):
                whole.add_(part.view(self.shape), alpha=len(g) / self.count)
        return mean, square
