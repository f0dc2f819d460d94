"""What a layer knows about the gradient of one of its weights, unit by unit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from .units import Units

BATCHED_FROM = 8
"""From this number of units of equal size on, one batched product is faster than one each."""


class UnitGradients(ABC):
    """The gradients of K units with respect to one tensor, computed when they are asked for.

    Args:
        like: the tensor; its shape and device are those of each gradient.
        dtype: of the gradients.
        units: number of units.
    """

    tiled = False
    """Whether rows of the gradients can be computed by themselves, at no extra cost."""

    def __init__(self, like: Tensor, dtype: torch.dtype, units: int) -> None:
        self.shape = like.shape
        self.device = like.device
        self.dtype = dtype
        self.count = units

    @abstractmethod
    def fill(self, rows: slice, out: Tensor) -> None:
        """Write the K gradients of these rows (of the first dimension) to ``out``."""

    def stack(self) -> Tensor:
        """All of it, [K, *shape]."""
        out = torch.empty((self.count, *self.shape), dtype=self.dtype, device=self.device)
        self.fill(slice(None), out)
        return out

    def moments(self) -> tuple[Tensor, Tensor]:
        """Σ over units of the gradients and of their squares; half precision in float32."""
        stack = self.stack().float() if self.dtype.itemsize < 4 else self.stack()
        return stack.sum(0), stack.square_().sum(0)


class Given(UnitGradients):
    """Gradients that are already there, one tensor a unit; ``None`` stands for zeros."""

    def __init__(self, like: Tensor, parts: Sequence[Tensor | None]) -> None:
        dtype = next((part.dtype for part in parts if part is not None), like.dtype)
        super().__init__(like, dtype, len(parts))
        self._parts = parts

    def fill(self, rows: slice, out: Tensor) -> None:
        """Copy."""
        for part, target in zip(self._parts, out.unbind(0), strict=True):
            if part is None:
                target.zero_()
            else:
                target.copy_(part[rows] if part.ndim > 0 else part)


class Stacked(UnitGradients):
    """Gradients that are already there, in one tensor of shape [K, *shape]."""

    def __init__(self, like: Tensor, stack: Tensor) -> None:
        super().__init__(like, stack.dtype, len(stack))
        self._stack = stack

    def fill(self, rows: slice, out: Tensor) -> None:
        """Copy."""
        out.copy_(self._stack[:, rows] if self._stack.ndim > 1 else self._stack)

    def stack(self) -> Tensor:
        """The stack itself."""
        return self._stack


class Products(UnitGradients):
    """Gradients g_eᵀ x_e, as those of a linear map y = x Wᵀ with respect to W.

    Args:
        like: W, [outputs, …], whose rows are flattened.
        inputs, outputs: x_e [positions, inputs] and the gradient of y_e [positions, outputs].
        units: the units, to whose samples the positions belong in equal numbers.
    """

    tiled = True

    def __init__(
        self, like: Tensor, inputs: Sequence[Tensor], outputs: Sequence[Tensor], units: Units
    ) -> None:
        super().__init__(like, outputs[0].dtype, units.count)
        self._x, self._g = inputs, outputs
        self._positions = len(inputs[0]) // units.sizes[0]
        self._batched: tuple[Tensor, Tensor] | None = None
        if units.equal and units.count >= BATCHED_FROM:
            self._batched = torch.stack(list(inputs)), torch.stack(list(outputs))

    def fill(self, rows: slice, out: Tensor) -> None:
        """One product a unit, or one batched product over units of equal size."""
        out = out.flatten(2) if out.ndim > 3 else out
        if self._batched is not None:
            x, g = self._batched
            torch.bmm(g[:, :, rows].transpose(1, 2), x, out=out)
            return
        for x, g, target in zip(self._x, self._g, out.unbind(0), strict=True):
            torch.mm(g[:, rows].t(), x, out=target)
