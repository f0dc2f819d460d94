"""Units: domains or samples whose gradients are told apart."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Units:
    """Units (domains or samples), and how their samples lie in a batch.

    Args:
        sizes: number of samples of each unit.
    """

    sizes: tuple[int, ...]
    pooled: bool = False
    """Whether batch norms in training mode look at the whole batch."""
    turn: int = 0
    """0: one unit's samples after the other's. Else units of equal size take turns, with so many
    rows at a turn: so what one channel of a unit holds lies as the channels of one image do, and
    norms and convolutions take all units in one call."""

    @cached_property
    def count(self) -> int:
        """Number of units, K."""
        return len(self.sizes)

    @cached_property
    def samples(self) -> int:
        """Number of samples, N."""
        return sum(self.sizes)

    @cached_property
    def equal(self) -> bool:
        """Whether all units have the same number of samples."""
        return len(set(self.sizes)) == 1

    @cached_property
    def kind(self) -> tuple[bool, bool]:
        """Whether a unit has but one sample, and whether units take turns.

        For a single sample, a graph may do something that it was not captured for.
        """
        return 1 in self.sizes, self.turn > 0

    @cached_property
    def rows(self) -> list[slice]:
        """Where each unit's samples lie, of units that take turns one by one or not at all."""
        if self.turn:
            return [slice(unit, None, self.count) for unit in range(self.count)]
        starts = [sum(self.sizes[:unit]) for unit in range(self.count)]
        return [slice(n, n + size) for n, size in zip(starts, self.sizes, strict=True)]

    def times(self, rows: int) -> Units:
        """With so many rows in the place of each sample."""
        if rows == 1:
            return self
        return Units(tuple(n * rows for n in self.sizes), self.pooled, self.turn * rows)
