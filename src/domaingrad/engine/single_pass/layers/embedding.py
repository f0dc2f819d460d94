"""Embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from domaingrad.rules.statistics import accumulation_dtype

from ..gradients import UnitGradients
from ..scratch import Scratch
from ..units import Axis, Units
from .base import Layer


@dataclass
class Embedding(Layer):
    """Rows of the weight, picked by integers."""

    units: Units
    axis: Axis
    padding_idx: int
    scale_grad_by_freq: bool

    def forward(self, x: Tensor, *shared: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The rows."""
        return torch.embedding(shared[0], x), (x, *shared)

    def backward(
        self, g: Tensor, saved: tuple[Tensor, ...], input_wanted: bool, wanted: tuple[bool, ...]
    ) -> tuple[Tensor | None, list[UnitGradients | None]]:
        """Sums of the rows' gradients, unit by unit."""
        return None, [Scattered(self, saved[1], saved[0], g) if wanted[0] else None]


class Scattered(UnitGradients):
    """Each position's gradient added to the row that it picked."""

    def __init__(self, layer: Embedding, weight: Tensor, indices: Tensor, g: Tensor) -> None:
        super().__init__(weight, g.dtype, layer.units.count)
        self._layer = layer
        axis, units = layer.axis, layer.units
        self._parts = list(zip(axis.split(indices, units), axis.split(g, units), strict=True))

    def fill(self, rows: slice, out: Tensor) -> None:
        """One call a unit."""
        for (indices, g), target in zip(self._parts, out.unbind(0), strict=True):
            gradient = torch.ops.aten.embedding_dense_backward(
                g.contiguous(),
                indices,
                self.shape[0],
                self._layer.padding_idx,
                self._layer.scale_grad_by_freq,
            )
            target.copy_(cast(Tensor, gradient)[rows])

    def moments(self, scratch: Scratch) -> tuple[Tensor, Tensor]:
        """From the rows that each unit picked, without a table for each unit."""
        if self._layer.scale_grad_by_freq:
            return super().moments(scratch)
        dtype = accumulation_dtype(self.dtype)
        rows, width = self.shape
        units = torch.cat([torch.full_like(i.flatten(), e) for e, (i, _) in enumerate(self._parts)])
        indices = torch.cat([i.flatten() for i, _ in self._parts]).long()
        g = torch.cat([part.reshape(-1, width) for _, part in self._parts]).to(dtype)
        if self._layer.padding_idx >= 0:
            g = g * (indices != self._layer.padding_idx).unsqueeze(1)
        picked, where = torch.unique(units * rows + indices, return_inverse=True)
        sums = g.new_zeros(len(picked), width).index_add_(0, where, g)
        mean, square = (
            g.new_zeros(rows, width).index_add_(0, picked % rows, each, alpha=1 / self.count)
            for each in (sums, sums.square())
        )
        return mean, square
