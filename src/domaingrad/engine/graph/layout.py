"""Where the samples lie in a tensor of the captured graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from ..units import Units


@dataclass(frozen=True, slots=True)
class Shared:
    """The same for every unit: parameters, buffers, constants.

    ``free`` are the dimensions along which it is constant, or drawn independently, so that a unit
    with fewer samples would have it alike.
    """

    free: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class PerUnit:
    """One tensor a unit; at run time a stack [K, *shape] or :class:`UnitGradients`."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """The N samples lie along dimension ``dim``, whose size is ``outer · N · inner``.

    Entry (o, s, i) along it belongs to sample s: ``inner`` entries of one sample side by side
    (flattened positions), ``outer`` groups of all samples (a flattened sequence-first tensor). In a
    later batch one of the two may be another number, where the other one is 1: it follows from the
    size.
    """

    dim: int
    outer: int = 1
    inner: int = 1
    repeated: bool = field(default=False, compare=False)
    """Copies of what is no sample, as many as there are samples."""

    @property
    def plain(self) -> bool:
        """Whether the dimension holds the samples and nothing else."""
        return self.outer == 1 and self.inner == 1

    def moved(self, dim: int) -> Sampled:
        """The same along another dimension."""
        return Sampled(dim, self.outer, self.inner, self.repeated)

    def is_laid_as(self, other: Sampled) -> bool:
        """Whether :meth:`split` does right in a batch of other sizes, where this is ``other``."""
        if self.outer == 1 or self.inner == 1:
            return (self.outer == 1, self.inner == 1) == (other.outer == 1, other.inner == 1)
        return (self.outer, self.inner) == (other.outer, other.inner)

    def _apart(self, tensor: Tensor, samples: int) -> Tensor:
        """[…, outer, samples, inner, …]."""
        outer = -1 if self.inner == 1 else self.outer
        inner = -1 if self.outer == 1 and self.inner != 1 else self.inner
        return torch.unflatten(tensor, self.dim, (outer, samples, inner))

    def split(self, tensor: Tensor, units: Units) -> list[Tensor]:
        """One tensor a unit; views unless the samples lie in groups."""
        if units.turn:
            parts = self._by_turn(tensor, units).unbind(self.dim + 2)
            return [part.flatten(self.dim, self.dim + 2) for part in parts]
        if self.outer == 1:
            inner = tensor.shape[self.dim] // units.samples
            sizes = [n * inner for n in units.sizes]
            return list(torch.split_with_sizes(tensor, sizes, self.dim))
        apart = self._apart(tensor, units.samples)
        parts = torch.split_with_sizes(apart, list(units.sizes), self.dim + 1)
        return [part.flatten(self.dim, self.dim + 2) for part in parts]

    def join(self, parts: Sequence[Tensor], units: Units) -> Tensor:
        """The inverse of :meth:`split`."""
        if units.turn:
            apart = [self._apart(part, n) for part, n in zip(parts, units.sizes, strict=True)]
            return torch.stack(apart, self.dim + 2).flatten(self.dim, self.dim + 3)
        if self.outer == 1:
            return torch.cat(list(parts), self.dim)
        apart = [self._apart(part, n) for part, n in zip(parts, units.sizes, strict=True)]
        return torch.cat(apart, self.dim + 1).flatten(self.dim, self.dim + 2)

    def _by_turn(self, tensor: Tensor, units: Units) -> Tensor:
        """[…, outer, samples of a unit, units, inner, …]."""
        apart = self._apart(tensor, units.samples)
        return torch.unflatten(apart, self.dim + 1, (-1, units.count))

    def first(self, tensor: Tensor, units: Units) -> Tensor:
        """With the samples along the first dimension: [N, …, outer·inner at ``dim``, …]."""
        if self.dim == 0 and self.plain:
            return tensor
        apart = self._apart(tensor, units.samples)
        moved = apart.movedim(self.dim + 1, 0)
        return moved.flatten(self.dim + 1, self.dim + 2)

    def sums(self, tensor: Tensor, units: Units, over: Sequence[int]) -> Tensor:
        """Sums over the samples of each unit and over dimensions ``over``: [K, the rest]."""
        if units.turn:
            apart = self._by_turn(tensor, units)
            dims = [d + 3 * (d > self.dim) for d in over if d != self.dim]
            sums = apart.sum([*dims, self.dim, self.dim + 1, self.dim + 3])
            return sums.movedim(self.dim - sum(d < self.dim for d in over), 0)
        if self.outer == 1 and units.equal:
            apart = torch.unflatten(tensor, self.dim, (units.count, -1))
            dims = [d + (d > self.dim) for d in over if d != self.dim] + [self.dim + 1]
            place = self.dim - sum(d < self.dim for d in over)
            sums = apart.sum(dims)
            return sums if place == 0 else sums.movedim(place, 0)
        parts = self.split(tensor, units)
        return torch.stack([part.sum(tuple({*over, self.dim})) for part in parts])


Placement = Shared | PerUnit | Sampled
"""Where the samples lie in one tensor."""


def viewed(axis: Sampled, shape: Sequence[int], new: Sequence[int], samples: int) -> Sampled | None:
    """Where the samples lie after a view; ``None`` if no dimension holds them any more.

    The samples' stride in the flattened tensor and what lies to the left of them stay as they are;
    the new dimension must begin and end at multiples of both.
    """
    left = prod(shape[: axis.dim]) * axis.outer
    stride = axis.inner * prod(shape[axis.dim + 1 :])
    if prod(shape) != prod(new):
        return None
    for dim, size in enumerate(new):
        before, after = prod(new[:dim]), prod(new[dim + 1 :])
        if before == 0 or after == 0 or left % before or stride % after:
            continue
        outer, inner = left // before, stride // after
        if outer * samples * inner == size:
            return Sampled(dim, outer, inner, axis.repeated)
    return None
