"""Random search: from which distributions hyper-parameters are drawn, and the draws."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch

from .seeds import generator_of


@dataclass(frozen=True)
class Uniform:
    """U(low, high)."""

    low: float
    high: float

    def at(self, u: float) -> float:
        """The value at ``u`` in [0, 1)."""
        return self.low + u * (self.high - self.low)


@dataclass(frozen=True)
class PowerOfTen:
    """10^U(low, high)."""

    low: float
    high: float

    def at(self, u: float) -> float:
        """The value at ``u`` in [0, 1)."""
        return float(10 ** (self.low + u * (self.high - self.low)))


@dataclass(frozen=True)
class PowerOfTwo:
    """⌊2^U(low, high)⌋, at least 1."""

    low: float
    high: float

    def at(self, u: float) -> int:
        """The value at ``u`` in [0, 1)."""
        return max(1, math.floor(2 ** (self.low + u * (self.high - self.low))))


@dataclass(frozen=True)
class Floor:
    """⌊·⌋ of what another distribution gives."""

    of: Uniform | PowerOfTen

    def at(self, u: float) -> int:
        """The value at ``u`` in [0, 1)."""
        return math.floor(self.of.at(u))


@dataclass(frozen=True)
class Choice:
    """One of the values, each as likely."""

    values: tuple[float, ...]

    def at(self, u: float) -> float:
        """The value at ``u`` in [0, 1)."""
        return self.values[int(u * len(self.values))]


Distribution = Uniform | PowerOfTen | PowerOfTwo | Floor | Choice


def space(**distributions: Distribution) -> Mapping[str, Distribution]:
    """A search space: a distribution for each hyper-parameter, by name."""
    return MappingProxyType(distributions)


def drawn(space: Mapping[str, Distribution], draw: int, *names: object) -> dict[str, float | int]:
    """One draw of hyper-parameters; draw 0 stands for the defaults, so it draws nothing.

    Each value derives from its own name, so that what methods share (a learning rate) is the same
    for all of them in the same draw: ours, so that methods are compared in pairs (DomainBed,
    arXiv 2007.01434, draws for each method anew).

    Args:
        space: distributions by name of the hyper-parameter.
        draw: its number.
        names: what else the seed derives from.

    >>> drawn({"tau": Uniform(0.5, 1)}, 0)
    {}
    >>> shared = drawn({"tau": Uniform(0.5, 1)}, 3)["tau"]
    >>> drawn({"k": PowerOfTen(-3, 5), "tau": Uniform(0.5, 1)}, 3)["tau"] == shared
    True
    """
    if draw == 0:
        return {}
    return {
        name: distribution.at(
            torch.rand(
                (), dtype=torch.float64, generator=generator_of(*names, f"draw {draw}", name)
            ).item()
        )
        for name, distribution in space.items()
    }
