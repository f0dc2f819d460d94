"""What is known of each operator: where the samples lie in its result, and how it runs per unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from ..layout import PerUnit, Placement, Sampled, Shared


class Sizes(Protocol):
    """What the sizes in a graph come to."""

    def shape(self, node: Node) -> tuple[int, ...]:
        """Of a node's tensor."""

    def number(self, size: Any) -> int:
        """Of one size."""

    def tells_samples(self, value: Any) -> bool:
        """Whether a number changes with the number of samples."""


Placements = Placement | tuple[Any, ...] | None
"""Of an operator's result: one tensor, several, or none of interest."""


class UnprovableError(Exception):
    """The gradients of the units cannot be proven to be told apart; the message says where."""


@dataclass(frozen=True)
class Outcome:
    """What an operator does to the samples.

    ``run(units, *args, **kwargs)`` takes the operator's place at run time; ``None`` leaves it as it
    is. A run that does not take tensors per unit itself is called once a unit where there are some.
    """

    placement: Placements
    run: Callable[..., Any] | None = None
    takes_per_unit: bool = False


class TakesTurns:
    """What runs in one call for all units where their samples take turns: norms over a unit."""


class Call:
    """One operator in the graph, as its rule sees it.

    Args:
        node: the node.
        placements: of the nodes before it.
        sizes: what the sizes in the graph come to.
        samples: N.
        in_backward: whether it depends on the gradients of the outputs.
    """

    def __init__(
        self,
        node: Node,
        placements: Mapping[Node, Placements],
        sizes: Sizes,
        samples: int,
        in_backward: bool,
    ) -> None:
        self.node = node
        self.op: Any = node.target
        self._sizes = sizes
        self.args = self._bound()
        self.samples = samples
        self.in_backward = in_backward
        self._placements = placements

    def _bound(self) -> dict[str, Any]:
        """Arguments by name, with defaults."""
        schema = self.op._schema.arguments
        found = {a.name: a.default_value for a in schema if a.has_default_value()}
        found.update(zip((a.name for a in schema), self.node.args, strict=False))
        return map_arg({**found, **self.node.kwargs}, self._number)

    def _number(self, node: Node) -> Any:
        """A size that the graph computes."""
        value = node.meta.get("val")
        return self._sizes.number(value) if isinstance(value, torch.SymInt) else node

    def number(self, size: Any) -> int:
        """A size of one of several results."""
        return self._sizes.number(size)

    @property
    def counts_samples(self) -> bool:
        """Whether the entries of the result are made of the number of samples."""
        arguments = self.op._schema.arguments
        given = dict(zip((a.name for a in arguments), self.node.args, strict=False))
        given.update(self.node.kwargs)
        values = [
            given.get(a.name)
            for a in arguments
            if any(kind in str(a.type) for kind in ("number", "float", "Tensor"))
            and not (a.name == "end" and self.op.overloadpacket is torch.ops.aten.arange)
        ]
        return any(
            self._sizes.tells_samples(value.meta.get("val"))
            for value in values
            if isinstance(value, Node)
        )

    def pretending(self, placements: Mapping[Node, Placements]) -> Call:
        """The same with other placements of some arguments."""
        return Call(
            self.node,
            {**self._placements, **placements},
            self._sizes,
            self.samples,
            self.in_backward,
        )

    def __getitem__(self, name: str) -> Any:
        return self.args[name]

    def at(self, value: Any) -> Placement:
        """Where the samples lie in an argument."""
        if not isinstance(value, Node):
            return Shared()
        placement = self._placements[value]
        if isinstance(placement, (Shared, PerUnit, Sampled)):
            return placement
        return Shared()

    def axis(self, name: str = "self") -> Sampled:
        """Where the samples lie in an argument that must hold them."""
        placement = self.at(self[name])
        if not isinstance(placement, Sampled):
            raise self.mixes()
        return placement

    def shape(self, value: Any = None) -> tuple[int, ...]:
        """Of an argument, or of the result."""
        if value is None:
            return self._sizes.shape(self.node)
        return self._sizes.shape(value) if isinstance(value, Node) else ()

    @property
    def tensors(self) -> list[Node]:
        """The tensors among the arguments."""
        return [node for node in self.node.all_input_nodes if self._placements[node] is not None]

    @property
    def sampled(self) -> list[Node]:
        """The arguments that hold samples."""
        return [node for node in self.tensors if isinstance(self.at(node), Sampled)]

    def dim(self, value: int, ndim: int) -> int:
        """A dimension counted from the front."""
        return value % ndim if ndim else 0

    def refuse(self, reason: str) -> UnprovableError:
        """To be raised."""
        return UnprovableError(f"{self.op} {reason}")

    def mixes(self) -> UnprovableError:
        """To be raised where samples of several units come together."""
        return self.refuse("mixes samples")


Rule = Callable[[Call], Outcome]

RULES: dict[Any, Rule] = {}
"""By operator, all overloads together."""


def rule(*operators: Any) -> Callable[[Rule], Rule]:
    """Register a rule for operators such as ``torch.ops.aten.mm``."""

    def register(function: Rule) -> Rule:
        for operator in operators:
            RULES[operator] = function
        return function

    return register


def operators(*names: str) -> list[Any]:
    """Those of these ``aten`` operators that this version of PyTorch has."""
    found = [getattr(torch.ops.aten, name, None) for name in names]
    return [operator for operator in found if operator is not None]


def require_alike(call: Call, dim: int, others: Sequence[Any], ndim: int) -> None:
    """Refuse what has one value a sample without holding samples.

    Args:
        call: the operator.
        dim: where the samples lie in the result.
        others: arguments that hold no samples, aligned to the result from the right.
        ndim: dimensions of the result.
    """
    for other in others:
        shape, placement = call.shape(other), call.at(other)
        own = dim - (ndim - len(shape))
        if own < 0 or shape[own] == 1:
            continue
        if not (isinstance(placement, Shared) and own in placement.free):
            raise call.refuse("combines samples with a tensor that has one entry a sample")
