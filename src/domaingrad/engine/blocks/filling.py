"""From gradients that arrive parameter by parameter to blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from domaingrad.rules.authoring import ElementwiseRule, GramianRule

from ..gradients import UnitGradients
from ..scratch import Scratch
from .block import Block, Part, capacity
from .runner import Runner


@dataclass
class _Open:
    """Small tensors of one kind that wait for others."""

    stacks: dict[int, Tensor] = field(default_factory=dict)
    """[K, n], by the parameter's index."""
    components: int = 0


class Agreement:
    """Receives all domains' gradients of each parameter, and gives their updates.

    Args:
        runner: takes them through the rule.
        scratch: memory for tiles of large tensors.
    """

    def __init__(self, runner: Runner, scratch: Scratch) -> None:
        self.runner = runner
        self._scratch = scratch
        self._open: dict[tuple[torch.device, torch.dtype], _Open] = {}
        self._blocks: list[Block] = []
        self._shapes: dict[int, tuple[int, ...]] = {}
        self._updates: dict[int, Tensor] = {}

    @property
    def in_graph(self) -> Runner | None:
        """The rule, where a graph may apply it: it needs no tensor but the one at hand."""
        rule = self.runner.rule
        scoped = isinstance(rule, ElementwiseRule) and rule.scope != "model"
        return self.runner if scoped else None

    def receive(self, index: int, gradients: UnitGradients) -> None:
        """Take one parameter's gradients."""
        size = math.prod(gradients.shape)
        self._shapes[index] = gradients.shape
        if size == 0:
            like = torch.empty(0, dtype=gradients.dtype, device=gradients.device)
            self._updates[index] = like.view(gradients.shape)
            return
        small, most = capacity(gradients.device, gradients.count, gradients.dtype.itemsize)
        if size > small:
            self._take_alone(index, gradients, size)
            return
        kind = gradients.device, gradients.dtype
        waiting = self._open.setdefault(kind, _Open())
        waiting.stacks[index] = gradients.tensor().reshape(gradients.count, size)
        waiting.components += size
        if waiting.components >= most:
            self._take_together(self._open.pop(kind))

    def finish(self) -> dict[int, Tensor]:
        """The updates, in the shapes of the parameters, by index."""
        while self._open:
            self._take_together(self._open.popitem()[1])
        self.runner.finish()
        blocks, self._blocks = self._blocks, []
        updates, self._updates = self._updates, {}
        for block in blocks:
            updates |= {index: update.view(self._shapes[index]) for index, update in block}
        return updates

    def _take_alone(self, index: int, gradients: UnitGradients, size: int) -> None:
        block = Block([Part(index, size)])
        self._blocks.append(block)
        if gradients.device.type != "cpu":
            block.rows = gradients.tensor().reshape(gradients.count, size)
        elif isinstance(self.runner.rule, GramianRule):
            block.rows = gradients.stack().view(gradients.count, size)
        self.runner.take(block, gradients.filled(self._scratch))

    def _take_together(self, waiting: _Open) -> None:
        stacks = list(waiting.stacks.values())
        parts = [Part(index, stack.shape[1]) for index, stack in waiting.stacks.items()]
        block = Block(parts, stacks[0] if len(stacks) == 1 else torch.cat(stacks, 1))
        self._blocks.append(block)
        self.runner.take(block)
