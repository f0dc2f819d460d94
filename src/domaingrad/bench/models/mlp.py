"""Multi-layer perceptrons."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import nn


def mlp(shape: tuple[int, ...], outputs: int, hidden: Sequence[int] = (128, 128)) -> nn.Sequential:
    """A perceptron with LeakyReLU between its layers, for inputs of any shape.

    >>> mlp((2, 8, 8), 2, hidden=(16,))
    Sequential(
      (0): Flatten(start_dim=1, end_dim=-1)
      (1): Linear(in_features=128, out_features=16, bias=True)
      (2): LeakyReLU(negative_slope=0.01)
      (3): Linear(in_features=16, out_features=2, bias=True)
    )
    """
    widths = (prod(shape), *hidden, outputs)
    layers: list[nn.Module] = [nn.Flatten()]
    for i, (width, following) in enumerate(pairwise(widths)):
        if i > 0:
            layers.append(nn.LeakyReLU())
        layers.append(nn.Linear(width, following))
    return nn.Sequential(*layers)


def linear(shape: tuple[int, ...], outputs: int, bias: bool = True) -> nn.Sequential:
    """A linear map, starting at zero."""
    layer = nn.Linear(prod(shape), outputs, bias=bias)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return nn.Sequential(nn.Flatten(), layer)
