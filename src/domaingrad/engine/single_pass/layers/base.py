"""What the single pass needs of a known layer: y = layer(x, *shared), and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from ..gradients import UnitGradients
from ..units import Units


class Layer(ABC):
    """One use of a known layer in a forward pass.

    ``x`` holds the samples; the shared tensors (weight, bias) are the same for all of them.

    Args:
        units: the units in the batch.
    """

    units: Units

    lowered: ClassVar[bool] = False
    """Whether autocast runs the layer in the precision of its input."""

    @abstractmethod
    def forward(self, x: Tensor, *shared: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The output, and what the way back needs."""

    @abstractmethod
    def backward(
        self, g: Tensor, saved: tuple[Tensor, ...], input_wanted: bool, wanted: tuple[bool, ...]
    ) -> tuple[Tensor | None, list[UnitGradients | None]]:
        """From the output's gradient: that of x, and those of the shared tensors, as wanted."""
