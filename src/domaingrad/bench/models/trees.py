"""Ensembles of decision trees as tensors, so that a model file holds nothing that is executed."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

AT_ONCE = 2**15
"""Places in trees that are followed down together, in a CPU's cache."""
LEAST = 1e-7
"""Share of a class below which its logarithm is not followed."""


class Trees(nn.Module):
    """The sum of what the leaves of trees hold; of a forest the logarithm of the classes' shares.

    An input [n, *shape] goes left in a tree where ``x[feature] <= threshold``, else right, down to
    a leaf, which points to itself. Before :meth:`grow` there is no tree, and outputs are 0.

    Args:
        shape: of one input.
        outputs: their number K.
        forest: whether leaves hold shares of classes [K] that are averaged, or parts of one output.
    """

    feature: Tensor
    threshold: Tensor
    below: Tensor
    """Of each node the right and the left one."""
    root: Tensor
    column: Tensor
    base: Tensor
    depth: Tensor

    def __init__(self, shape: tuple[int, ...], outputs: int, forest: bool = False) -> None:
        super().__init__()
        self.outputs, self.forest, self._width = outputs, forest, prod(shape)
        none = torch.zeros(0, dtype=torch.long)
        for name in ("feature", "below", "root", "column"):
            self.register_buffer(name, none)
        self.register_buffer("threshold", none.double())
        self.register_buffer("base", torch.zeros(outputs, dtype=torch.float64))
        self.register_buffer("depth", torch.tensor(0))
        self.value = nn.Parameter(torch.zeros(0, 1, dtype=torch.float64), requires_grad=False)
        """Of each node [nodes, 1], or [nodes, K] of a forest."""

    def grow(self, trees: Mapping[str, Tensor]) -> None:
        """Take over trees: every buffer and ``value`` by name.

        Raises:
            ValueError: one leads out of the trees, or of an input.
        """
        self._require_inside(trees)
        for name, tensor in trees.items():
            if name == "value":
                self.value = nn.Parameter(tensor, requires_grad=False)
            else:
                setattr(self, name, tensor)

    def _require_inside(self, trees: Mapping[str, Tensor]) -> None:
        nodes, roots = len(trees["feature"]), len(trees["root"])
        columns = 0 if self.forest else roots
        sizes = {"threshold": nodes, "below": 2 * nodes, "value": nodes, "column": columns}
        limits = {
            "feature": self._width, "below": nodes, "root": nodes, "column": self.outputs,
            "depth": nodes + 1,
        }  # fmt: skip
        odd = [name for name, size in sizes.items() if len(trees[name]) != size]
        odd += [
            name
            for name, limit in limits.items()
            if trees[name].numel()
            and not 0 <= int(trees[name].min()) <= int(trees[name].max()) < limit
        ]
        if odd:
            raise ValueError(f"the trees' {odd[0]} does not fit {nodes} nodes of {roots} trees")

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [n, K], float32."""
        rows = x.flatten(1).double()
        size = max(1, AT_ONCE // max(1, len(self.root)))
        parts = (self._sums(part) for part in rows.split(size))  # type: ignore[no-untyped-call]
        sums = torch.cat(list(parts))
        found = sums.clamp(min=LEAST).log() if self.forest and self.outputs > 1 else sums
        return found.float()

    def _sums(self, rows: Tensor) -> Tensor:
        shape = len(rows), len(self.root)
        place = self.root.repeat(len(rows))
        for _ in range(int(self.depth)):
            # Selected, which is three times as fast as indexed.
            value = rows.gather(1, self.feature.index_select(0, place).view(shape))
            left = (value.flatten() <= self.threshold.index_select(0, place)).long()
            place = self.below.index_select(0, 2 * place + left)
        held = self.value.index_select(0, place).view(*shape, self.value.shape[1])
        if self.forest:
            return self.base + held.sum(1)
        sums = self.base.repeat(len(rows), 1)
        return sums.index_add_(1, self.column, held.squeeze(2))

    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        """Whatever their number, trees are taken over from a file."""
        own = {name: state[prefix + name] for name in self.state_dict() if prefix + name in state}
        self.grow({name: tensor.clone() for name, tensor in own.items()})
        super()._load_from_state_dict(state, prefix, *rest)
