"""A model, the batches it is given, and whether one pass must be exact or refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Build = Callable[[], nn.Module]
Draw = Callable[[int, int], Any]
"""Inputs of so many samples for the first, second or third batch, which may differ in shape."""


@dataclass(frozen=True)
class Case:
    build: Build
    draw: Draw
    refused: str | None = None
    """What the refusal says; ``None`` for models that are exact in one pass."""
    quick: bool = False
    """Whether every run of the tests has it."""
    package: str | None = None
    """What must be installed."""


def images(size: int, channels: int = 3) -> Draw:
    return lambda n, which: torch.randn(n, channels, size, size, dtype=torch.float64)


def rows(*shape: int) -> Draw:
    return lambda n, which: torch.randn(n, *shape, dtype=torch.float64)


def sequences(width: int, length: int = 9) -> Draw:
    """Shorter in the second batch."""
    return lambda n, which: torch.randn(n, length - 2 * (which == 1), width, dtype=torch.float64)


def deterministic(model: nn.Module) -> nn.Module:
    """In float64 and training mode, without random draws."""
    for module in model.modules():
        for name in ("p", "drop_prob", "dropout", "layerdrop", "dropout_prob", "attention_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model.double().train()


def losses_of(outputs: Any, size: int) -> Tensor:
    """One number a sample from every output that has a row a sample and depends on parameters."""
    found = [o for o in leaves(outputs) if o.requires_grad]
    assert found
    return sum((_loss(output, size) for output in found), torch.zeros(size, dtype=torch.float64))


def _loss(output: Tensor, size: int) -> Tensor:
    flat = output.reshape(size, -1)
    return (flat - torch.linspace(-1.0, 1.0, flat.shape[1]).to(flat)).square().mean(1)


def leaves(outputs: Any) -> list[Tensor]:
    tree = torch.utils._pytree.tree_leaves(outputs)
    return [leaf for leaf in tree if isinstance(leaf, Tensor)]
