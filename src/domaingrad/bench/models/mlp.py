"""Multi-layer perceptrons."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn


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


class Beside(nn.Module):
    """Inputs [n, d], and what layers make of them [n, h], side by side: [n, d + h].

    Args:
        deep: the layers.
    """

    def __init__(self, deep: nn.Module) -> None:
        super().__init__()
        self.deep = deep

    def forward(self, x: Tensor) -> Tensor:
        """Both."""
        return torch.cat([x.flatten(1), self.deep(x)], 1)


def wide_deep(shape: tuple[int, ...], outputs: int, hidden: Sequence[int] = (32,)) -> nn.Sequential:
    """A linear model and a perceptron, added up: W x + V h(x) + b (arXiv 1606.07792, section 3.3).

    W, V and b start at zero, so that it begins as a linear model does; that is ours, and so is one
    optimizer for both parts.

    >>> model = wide_deep((3,), 2, hidden=(4,))
    >>> model(torch.ones(1, 3)).tolist(), model[1].weight.shape
    ([[0.0, 0.0]], torch.Size([2, 7]))
    """
    last = linear((prod(shape) + hidden[-1],), outputs)[1]
    return nn.Sequential(Beside(mlp(shape, outputs, hidden)[:-1]), last)


def linear(shape: tuple[int, ...], outputs: int, bias: bool = True) -> nn.Sequential:
    """A linear map, starting at zero."""
    layer = nn.Linear(prod(shape), outputs, bias=bias)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return nn.Sequential(nn.Flatten(), layer)
