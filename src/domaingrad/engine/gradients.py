"""What a layer knows about the gradient of one of its weights, unit by unit."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from domaingrad.rules.statistics import accumulation_dtype

from .blocks.block import capacity
from .loops import Loop
from .scratch import Scratch
from .units import Units

TILE = 2**22
"""Components of all units together that are computed before something is done with them: they
stay in the processor's cache."""

FEW_PAIRS = 4
"""Positions a sample up to which squares come from products over pairs of positions."""

BATCHED_FROM = 8
"""From this number of units of equal size on, one batched product is faster than one each."""


class UnitGradients(ABC):
    """The gradients of K units with respect to one tensor, computed when they are asked for.

    Args:
        shape: of each gradient.
        like: a tensor of their dtype and on their device.
        units: number of units.
    """

    tiled = False
    """Whether rows of the gradients can be computed by themselves, at no extra cost."""

    def __init__(self, shape: Sequence[int], like: Tensor, units: int) -> None:
        self.shape = tuple(shape)
        self.device = like.device
        self.dtype = like.dtype
        self.count = units

    @abstractmethod
    def fill(self, rows: slice, out: Tensor) -> None:
        """Write the K gradients of these rows (of the first dimension) to ``out``."""

    @abstractmethod
    def tensor(self) -> Tensor:
        """All of it, [K, *shape], perhaps in memory that others look at."""

    def stack(self) -> Tensor:
        """All of it, [K, *shape]."""
        out = torch.empty((self.count, *self.shape), dtype=self.dtype, device=self.device)
        self.fill(slice(None), out)
        return out

    def as_used(self) -> Tensor:
        """All of it, [K, *shape], computed as a rule would be shown it."""
        small, _ = capacity(self.device, self.count, self.dtype.itemsize)
        tiled = self.device.type == "cpu" and math.prod(self.shape) > small
        return self.stack() if tiled else self.tensor()

    def moments(self, scratch: Scratch) -> tuple[Tensor, Tensor]:
        """Means over units of the gradients and of their squares; half precision in float32.

        Args:
            scratch: memory for the tiles.
        """
        parts = [moments_of(tile) for tile in self.filled(scratch)]
        mean, square = (joined(part).view(self.shape) for part in zip(*parts, strict=True))
        return mean, square

    def filled(self, scratch: Scratch) -> Iterator[Tensor]:
        """All gradients, some rows of them at a time, [K, n]: in memory that the next ones take."""
        for rows in self.tiles():
            size = self.size_of(rows)
            tile = scratch.take((self.count, *size), self.dtype, self.device)
            self.fill(rows, tile)
            yield tile.view(self.count, math.prod(size))

    def size_of(self, rows: slice) -> tuple[int, ...]:
        """Shape of some rows of one gradient."""
        if not self.shape:
            return ()
        return len(range(*rows.indices(self.shape[0]))), *self.shape[1:]

    def tiles(self) -> list[slice]:
        """Rows to be computed together: all of them, or as many as stay in the cache."""
        rows = self.shape[0] if self.shape else 1
        step = max(rows, 1)
        if self.tiled:
            step = max(1, TILE // (self.count * max(1, math.prod(self.shape[1:]))))
        return [slice(start, start + step) for start in range(0, max(rows, 1), step)]


def moments_of(stack: Tensor) -> tuple[Tensor, Tensor]:
    """Means of gradients [K, n] and of their squares, in one loop if worth it; overwrites them."""
    if _moments.is_worth_it(stack):
        found: tuple[Tensor, Tensor] | None = _moments(stack)
        if found is not None:
            return found
    g = stack.to(accumulation_dtype(stack.dtype))
    return g.mean(0), g.square_().mean(0)


def _mean_and_square(stack: Tensor) -> tuple[Tensor, Tensor]:
    g = stack.to(accumulation_dtype(stack.dtype))
    return g.mean(0), g.square().mean(0)


_moments = Loop(_mean_and_square, "the moments of gradients")


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Tiles of one tensor, one after the other."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


class Given(UnitGradients):
    """Gradients that are already there, one tensor a unit; ``None`` stands for zeros."""

    def __init__(self, like: Tensor, parts: Sequence[Tensor | None]) -> None:
        first = next((part for part in parts if part is not None), like)
        super().__init__(like.shape, first, len(parts))
        self._parts = parts

    def fill(self, rows: slice, out: Tensor) -> None:
        """Copy."""
        for part, target in zip(self._parts, out.unbind(0), strict=True):
            if part is None:
                target.zero_()
            else:
                target.copy_(part[rows] if part.ndim > 0 else part)

    def tensor(self) -> Tensor:
        """One after the other."""
        present = next(part for part in self._parts if part is not None)
        zeros = torch.zeros_like(present)
        return torch.stack([zeros if part is None else part for part in self._parts])


class Stacked(UnitGradients):
    """Gradients that are already there, in one tensor of shape [K, *shape]."""

    def __init__(self, stack: Tensor) -> None:
        super().__init__(stack.shape[1:], stack, len(stack))
        self._stack = stack

    def fill(self, rows: slice, out: Tensor) -> None:
        """Copy."""
        out.copy_(self._stack[:, rows] if self._stack.ndim > 1 else self._stack)

    def tensor(self) -> Tensor:
        """As it is."""
        return self._stack

    def stack(self) -> Tensor:
        """A copy: the stack may be a view of what autograd still needs."""
        return self._stack.clone()

    def moments(self, scratch: Scratch) -> tuple[Tensor, Tensor]:
        """Without a copy."""
        return _mean_and_square(self._stack)


class Products(UnitGradients):
    """Gradients g_eᵀ x_e, as those of a linear map y = x Wᵀ with respect to W.

    Args:
        shape: of W, [outputs, …], whose rows are flattened.
        x: inputs, [positions, inputs], unit after unit.
        g: gradients of y, [positions, outputs], likewise.
        units: the units, to whose samples the positions belong in equal numbers.
    """

    tiled = True

    def __init__(self, shape: Sequence[int], x: Tensor, g: Tensor, units: Units) -> None:
        super().__init__(shape, g, units.count)
        self._x, self._g = x, g
        self._units = units
        self._positions = len(x) // units.samples

    def fill(self, rows: slice, out: Tensor) -> None:
        """One product a unit, or one batched product over units of equal size."""
        out = out.flatten(2) if out.ndim > 3 else out
        g = self._g[:, rows]
        if self._units.turn:
            out.copy_(torch.bmm(self._by_unit(g).transpose(1, 2), self._by_unit(self._x)))
            return
        if self._units.equal and self.count >= BATCHED_FROM:
            g = g.unflatten(0, (self.count, -1))  # type: ignore[no-untyped-call]
            x = self._x.unflatten(0, (self.count, -1))  # type: ignore[no-untyped-call]
            torch.bmm(g.transpose(1, 2), x, out=out)
            return
        sizes = [size * self._positions for size in self._units.sizes]
        parts = (torch.split_with_sizes(tensor, sizes) for tensor in (self._x, g))
        for x, own, target in zip(*parts, out.unbind(0), strict=True):
            torch.mm(own.t(), x, out=target)

    def tensor(self) -> Tensor:
        """Likewise; products that are joined along their rows are written to their place."""
        if self._units.equal:
            g, x = self._by_unit(self._g), self._by_unit(self._x)
            return torch.bmm(g.transpose(1, 2), x).view(self.count, *self.shape)
        sizes = [size * self._positions for size in self._units.sizes]
        parts = (torch.split_with_sizes(tensor, sizes) for tensor in (self._g, self._x))
        products = [torch.mm(g.t(), x) for g, x in zip(*parts, strict=True)]
        return torch.cat(products).view(self.count, *self.shape)

    def _by_unit(self, rows: Tensor) -> Tensor:
        """[K, positions of a unit, …] of units of equal size."""
        if not self._units.turn:
            return torch.unflatten(rows, 0, (self.count, -1))
        apart = torch.unflatten(rows, 0, (-1, self.count, self._positions))
        return apart.movedim(1, 0).flatten(1, 2)

    def moments(self, scratch: Scratch) -> tuple[Tensor, Tensor]:
        """Without the gradients themselves where each unit has few positions.

        One position: Σ_s (g_s x_sᵀ)² = (g²)ᵀ (x²). Few: all pairs t ≤ t' of positions of a unit,
        (g_t ∘ g_t')ᵀ (x_t ∘ x_t'), twice for t < t'.
        """
        if not self._units.equal or len(self._x) > FEW_PAIRS * self.count:
            return super().moments(scratch)
        dtype, share = accumulation_dtype(self.dtype), 1 / self.count
        x, g = self._x.to(dtype), self._g.to(dtype)
        mean = torch.mm((g * share).t(), x).view(self.shape)
        if len(x) == self.count:
            return mean, torch.mm(g.square().mul_(share).t(), x.square()).view(self.shape)
        x, g = (t.unflatten(0, (self.count, -1)) for t in (x, g))  # type: ignore[no-untyped-call]
        first, second = torch.triu_indices(x.shape[1], x.shape[1], device=x.device).unbind(0)
        weight = torch.where(first == second, share, 2.0 * share).to(x)
        pairs_of_g = g[:, first] * g[:, second] * weight.view(1, -1, 1)
        pairs_of_x = x[:, first] * x[:, second]
        squares = torch.mm(pairs_of_g.flatten(0, 1).t(), pairs_of_x.flatten(0, 1))
        # Where positions cancel, rounding may leave less than squares can be, or less than nothing.
        least = mean.square()
        return mean, torch.maximum(squares.view(self.shape), least, out=least)
