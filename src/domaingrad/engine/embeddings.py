"""Gradients of embeddings, unit by unit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor

from domaingrad.rules.statistics import accumulation_dtype

from .gradients import UnitGradients
from .scratch import Scratch


class Scattered(UnitGradients):
    """Each position's gradient added to the row that it picked.

    Args:
        shape: of the table.
        indices: one tensor a unit.
        gradients: likewise, with the table's width as last dimension.
        padding_idx: the row that gets none; -1 without one.
        by_frequency: divide by how often a row is picked.
    """

    def __init__(
        self,
        shape: Sequence[int],
        indices: Sequence[Tensor],
        gradients: Sequence[Tensor],
        padding_idx: int,
        by_frequency: bool,
    ) -> None:
        super().__init__(shape, gradients[0], len(gradients))
        self._parts = list(zip(indices, gradients, strict=True))
        self._padding_idx, self._by_frequency = padding_idx, by_frequency

    def fill(self, rows: slice, out: Tensor) -> None:
        """One call a unit."""
        for gradient, target in zip(self._each(), out.unbind(0), strict=True):
            target.copy_(gradient[rows])

    def tensor(self) -> Tensor:
        """Likewise."""
        return torch.stack(list(self._each()))

    def _each(self) -> Iterator[Tensor]:
        for indices, g in self._parts:
            gradient = torch.ops.aten.embedding_dense_backward(
                g.contiguous(),
                indices,
                self.shape[0],
                self._padding_idx,
                self._by_frequency,
            )
            yield cast(Tensor, gradient)

    def moments(self, scratch: Scratch) -> tuple[Tensor, Tensor]:
        """From the rows that each unit picked, without a table for each unit."""
        if self._by_frequency:
            return super().moments(scratch)
        dtype = accumulation_dtype(self.dtype)
        rows, width = self.shape
        units = torch.cat([torch.full_like(i.flatten(), e) for e, (i, _) in enumerate(self._parts)])
        indices = torch.cat([i.flatten() for i, _ in self._parts]).long()
        g = torch.cat([part.reshape(-1, width) for _, part in self._parts]).to(dtype)
        if self._padding_idx >= 0:
            g = g * (indices != self._padding_idx).unsqueeze(1)
        picked, where = torch.unique(units * rows + indices, return_inverse=True)
        sums = g.new_zeros(len(picked), width).index_add_(0, where, g)
        mean, square = (
            g.new_zeros(rows, width).index_add_(0, picked % rows, each, alpha=1 / self.count)
            for each in (sums, sums.square())
        )
        return mean, square
