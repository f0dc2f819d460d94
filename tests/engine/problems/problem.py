"""A model, a shuffled batch of uneven domains, and what to do with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LABELS = (-3, 0, 7, 10**12)
SIZES = (2, 3, 5, 7)
CLASSES = 3
N = sum(SIZES)


@dataclass(frozen=True)
class Problem:
    build: Callable[[], nn.Module]
    inputs: Any
    targets: Tensor
    domain: Tensor
    losses: Callable[[Any, Tensor], Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    rounding_noise: frozenset[str] = frozenset()
    """Parameters that hold components whose true gradient is zero: rounding gives them signs."""

    @property
    def labels(self) -> list[int]:
        return sorted(set(self.domain.tolist()))

    def only(self, *labels: int) -> Problem:
        return self._of(torch.tensor([label in labels for label in self.domain.tolist()]))

    @property
    def balanced(self) -> Problem:
        """As many samples of each domain as the smallest has."""
        least = min(int((self.domain == label).sum()) for label in self.labels)
        rows = torch.zeros(len(self.domain), dtype=torch.bool)
        for label in self.labels:
            rows[(self.domain == label).nonzero()[:least, 0]] = True
        return self._of(rows)

    def _of(self, rows: Tensor) -> Problem:
        return replace(
            self,
            inputs=select(self.inputs, rows),
            targets=self.targets[rows],
            domain=self.domain[rows],
        )


def select(inputs: Any, rows: Tensor) -> Any:
    if isinstance(inputs, tuple):
        return tuple(select(part, rows) for part in inputs)
    if isinstance(inputs, dict):
        return {name: select(part, rows) for name, part in inputs.items()}
    return inputs[rows]


def call(model: nn.Module, inputs: Any, options: dict[str, Any]) -> Any:
    if isinstance(inputs, tuple):
        return model(*inputs, **options)
    if isinstance(inputs, dict):
        return model(**inputs, **options)
    return model(inputs, **options)


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="none")


def square(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean square over all but the first dimension, of the distance to the class's number."""
    return (outputs.flatten(1) - targets[:, None]).square().mean(1)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """A batch [N, *shape], the same at every call."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(N, *shape, generator=draw, dtype=torch.float64)


def tokens(length: int, count: int = 11) -> Tensor:
    """Integers below ``count``, [N, length], the same at every call."""
    return torch.randint(0, count, (N, length), generator=torch.Generator().manual_seed(0))


def problem(
    build: Callable[[], nn.Module],
    inputs: Any,
    losses: Callable[[Any, Tensor], Tensor] = cross_entropy,
    **others: Any,
) -> Problem:
    return Problem(build, inputs, TARGETS, DOMAIN, losses, **others)


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, CLASSES))


def weights(*shape: int) -> nn.Parameter:
    """A parameter with entries of the size that an initialisation would give."""
    return nn.Parameter(torch.randn(*shape) / 2)


def _domain_and_targets() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    shuffle = torch.randperm(N, generator=draw)
    domain = torch.tensor(LABELS).repeat_interleave(torch.tensor(SIZES))[shuffle]
    return domain, torch.randint(0, CLASSES, (N,), generator=draw)


DOMAIN, TARGETS = _domain_and_targets()
