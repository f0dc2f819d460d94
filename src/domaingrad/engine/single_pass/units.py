"""Units: whose gradients are told apart, and where their rows lie in a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Units:
    """Units (domains or samples) whose samples lie one after the other in a batch.

    Args:
        sizes: number of samples of each unit.
    """

    sizes: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of units, K."""
        return len(self.sizes)

    @property
    def samples(self) -> int:
        """Number of samples, N."""
        return sum(self.sizes)

    @property
    def equal(self) -> bool:
        """Whether all units have the same number of samples."""
        return len(set(self.sizes)) == 1

    def sums(self, rows: Tensor) -> Tensor:
        """From one row a sample, [N, …], the sum over each unit's rows: [K, …]."""
        if self.count == self.samples:
            return rows
        if self.equal:
            return rows.unflatten(0, (self.count, -1)).sum(1)  # type: ignore[no-untyped-call,no-any-return]
        parts = torch.split_with_sizes(rows, list(self.sizes))
        return torch.stack([part.sum(0) for part in parts])


@dataclass(frozen=True, slots=True)
class Axis:
    """Where the N samples lie in a tensor.

    Dimension ``dim`` has ``per_sample · N`` entries: those of one sample side by side, or, if
    ``interleaved``, N apart (a flattened sequence-first tensor).
    """

    dim: int
    per_sample: int = 1
    interleaved: bool = False

    def fits(self, tensor: Tensor, samples: int) -> bool:
        """Whether the tensor can have ``samples`` samples along this axis."""
        return tensor.ndim > self.dim and tensor.shape[self.dim] == self.per_sample * samples

    def split(self, tensor: Tensor, units: Units) -> list[Tensor]:
        """One tensor a unit; views unless interleaved."""
        if not self.interleaved:
            sizes = [n * self.per_sample for n in units.sizes]
            return list(torch.split_with_sizes(tensor, sizes, self.dim))
        apart = torch.unflatten(tensor, self.dim, (self.per_sample, units.samples))
        parts = torch.split_with_sizes(apart, list(units.sizes), self.dim + 1)
        return [part.flatten(self.dim, self.dim + 1) for part in parts]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """The inverse of :meth:`split`."""
        if not self.interleaved:
            return torch.cat(list(parts), self.dim)
        apart = [torch.unflatten(part, self.dim, (self.per_sample, -1)) for part in parts]
        return torch.cat(apart, self.dim + 1).flatten(self.dim, self.dim + 1)

    def sums(self, tensor: Tensor, units: Units, keep: int = 1) -> Tensor:
        """Sums over all but the last ``keep`` dimensions and within each unit: [K, …]."""
        if self.interleaved:
            tensor = torch.unflatten(tensor, self.dim, (self.per_sample, units.samples))
            tensor = tensor.movedim(self.dim + 1, 0)
        else:
            tensor = torch.unflatten(tensor, self.dim, (units.samples, self.per_sample))
            tensor = tensor.movedim(self.dim, 0)
        between = tuple(range(1, tensor.ndim - keep))
        return units.sums(tensor.sum(between) if between else tensor)

    def rows(self, tensor: Tensor, units: Units) -> Tensor:
        """A matrix, unit after unit: all dimensions but the last flattened."""
        if self.dim == 0 and not self.interleaved:
            return tensor.reshape(-1, tensor.shape[-1])
        return torch.cat([p.reshape(-1, p.shape[-1]) for p in self.split(tensor, units)])


class LayoutError(ValueError):
    """Two passes with different numbers of samples do not show where the samples lie."""


def axis_between(large: Tensor, small: Tensor, samples: int, fewer: int) -> Axis | None:
    """Where the samples lie, from the same tensor in a pass with ``samples`` and with ``fewer``.

    ``None`` if the shapes are the same, so that the tensor holds no samples. The rows of the pass
    with fewer samples are the first ones of the other.

    Raises:
        LayoutError: the shapes differ in another way.
    """
    if large.shape == small.shape:
        return None
    if large.ndim == small.ndim:
        differing = [d for d in range(large.ndim) if large.shape[d] != small.shape[d]]
        (dim, *others) = differing
        per_sample, rest = divmod(large.shape[dim], samples)
        if not others and rest == 0 and small.shape[dim] == per_sample * fewer:
            return Axis(dim, per_sample, _interleaved(large, small, dim, per_sample, samples))
    raise LayoutError(
        f"no dimension grows with the number of samples alone: {list(large.shape)} for {samples} "
        f"samples, {list(small.shape)} for {fewer}"
    )


def _interleaved(large: Tensor, small: Tensor, dim: int, per_sample: int, samples: int) -> bool:
    if per_sample == 1:
        return False
    side_by_side = large.narrow(dim, 0, small.shape[dim])
    fewer = small.shape[dim] // per_sample
    apart = torch.unflatten(large, dim, (per_sample, samples)).narrow(dim + 1, 0, fewer)
    return _distance(apart.flatten(dim, dim + 1), small) < _distance(side_by_side, small)


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().sum())
