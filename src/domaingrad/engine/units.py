"""Units: domains or samples whose gradients are told apart."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Units:
    """Units (domains or samples) whose samples lie one after the other in a batch.

    Args:
        sizes: number of samples of each unit.
    """

    sizes: tuple[int, ...]
    pooled: bool = False
    """Whether batch norms in training mode look at the whole batch."""

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
    def any_single(self) -> bool:
        """Whether a unit has but one sample."""
        return 1 in self.sizes

    def times(self, rows: int) -> Units:
        """With so many rows in the place of each sample."""
        return self if rows == 1 else Units(tuple(n * rows for n in self.sizes), self.pooled)
