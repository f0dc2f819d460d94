"""From the domains' gradients of a whole model to its updates, for each family of rules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from domaingrad.rules import ElementwiseRule, GramianRule, Rule, Statistics
from domaingrad.rules.base import alone

from .distributed.shards import Shards
from .running import RunningStatistics

Gradients = Iterable[Tensor | None]
"""One gradient a parameter, ``None`` where a domain does not use the parameter."""


class Accumulator(Protocol):
    """Takes the gradients of one domain after the other, then gives the updates.

    A parameter that one domain does not use counts as zero there; one that no domain uses has no
    update.
    """

    def fold(self, gradients: Gradients) -> None:
        """Take in one domain.

        The tensors, in the dtype in which gradients are summed, become ours to overwrite.
        """

    def updates(self) -> list[Tensor | None]:
        """The update of every parameter, in the dtype in which gradients are summed."""


class ElementwiseAccumulator:
    """Running statistics per parameter; memory does not depend on the number of domains."""

    def __init__(self, rule: ElementwiseRule, parameters: int, shards: Shards | None) -> None:
        self._rule = rule
        self._shards = shards
        self._count = 0
        self._running = [RunningStatistics(rule.statistics) for _ in range(parameters)]

    def fold(self, gradients: Gradients) -> None:
        """Fold one domain into the running statistics."""
        self._count += 1
        for running, gradient in zip(self._running, gradients, strict=True):
            if gradient is not None:
                running.fold(gradient)

    def updates(self) -> list[Tensor | None]:
        """Apply the rule to the statistics of all used parameters together."""
        used = [running.count > 0 for running in self._running]
        if self._shards is None:
            updates = iter(self._rule.updates(self._consumed()))
        else:
            wholes = [self._shards.whole(index) for index, is_used in enumerate(used) if is_used]
            updates = iter(self._rule.updates(self._consumed(), self._shards.over, wholes))
        return [next(updates) if is_used else None for is_used in used]

    def _consumed(self) -> Iterator[Statistics]:
        """The statistics of each used parameter, let go of here once they are handed out."""
        self._running.reverse()
        while self._running:
            running = self._running.pop()
            if running.count > 0:
                running.fold_zeros(self._count - running.count)
                yield running.statistics()


class GramianAccumulator:
    """Keeps all K gradients; products over all parameters, then one weighted sum."""

    def __init__(self, rule: GramianRule, shards: Shards | None) -> None:
        self._rule = rule
        self._over_shards = alone if shards is None else shards.over
        self._domains: list[list[Tensor | None]] = []

    def fold(self, gradients: Gradients) -> None:
        """Keep one domain's gradients."""
        self._domains.append(list(gradients))

    def updates(self) -> list[Tensor | None]:
        """Weigh the domains by the rule and sum."""
        stacks = [_stacked(gradients) for gradients in zip(*self._domains, strict=True)]
        self._domains.clear()
        used = [stack for stack in stacks if stack is not None]
        updates = iter(self._rule.updates(used, self._over_shards))
        return [None if stack is None else next(updates) for stack in stacks]


def _stacked(gradients: Sequence[Tensor | None]) -> Tensor | None:
    """[K, *shape], zeros for the domains that do not use the parameter."""
    used = [g for g in gradients if g is not None]
    if not used:
        return None
    return torch.stack([torch.zeros_like(used[0]) if g is None else g for g in gradients])


def accumulator_for(rule: Rule, parameters: int, shards: Shards | None) -> Accumulator:
    """The accumulator of the rule's family."""
    match rule:
        case ElementwiseRule():
            return ElementwiseAccumulator(rule, parameters, shards)
        case GramianRule():
            return GramianAccumulator(rule, shards)
        case _:
            raise TypeError(
                f"expected a rule derived from ElementwiseRule or GramianRule; found "
                f"{type(rule).__name__}. See CONTRIBUTING.md, 'How to add a rule'."
            )
