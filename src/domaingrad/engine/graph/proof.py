"""The proof: where the samples lie in every tensor of a graph, and that nothing mixes them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import Graph, Node

from .layout import PerUnit, Sampled, Shared
from .operators import RULES, Call, Outcome, Placements, UnprovableError
from .operators.constants import ALIKE, by_rule
from .operators.elementwise import elementwise
from .operators.registry import Sizes
from .per_unit import each_unit


@dataclass
class Proof:
    """What was found of a graph."""

    placements: dict[Node, Placements] = field(default_factory=dict)
    runs: dict[Node, Callable[..., Any]] = field(default_factory=dict)
    """What takes an operator's place: called with the units, then its arguments."""


class Prover:
    """Walks a joint graph from the inputs to the gradients.

    Args:
        sizes: what the sizes in the graph come to.
        samples: N.
    """

    def __init__(self, sizes: Sizes, samples: int) -> None:
        self._sizes = sizes
        self._samples = samples

    def prove(
        self,
        graph: Graph,
        inputs: Mapping[Node, Placements],
        tangents: Mapping[Node, Node],
    ) -> Proof:
        """Where the samples lie in every tensor, and what runs unit by unit.

        Args:
            graph: forward and backward pass together.
            inputs: where the samples lie in the inputs of the forward pass.
            tangents: inputs of the backward pass, and the output that each is the gradient of.

        Raises:
            UnprovableError: an operator mixes samples, or nobody knows what it does to them.
        """
        proof = Proof()
        backward: set[Node] = set()
        for node in graph.nodes:
            if node.op == "placeholder":
                if node in tangents:
                    backward.add(node)
                else:
                    proof.placements[node] = inputs[node]
            elif node.op == "get_attr":
                is_tensor = isinstance(node.meta.get("val"), torch.Tensor)
                proof.placements[node] = Shared() if is_tensor else None
            elif node.op == "call_function":
                for start in tangents.keys() & set(node.all_input_nodes):
                    proof.placements[start] = _of_gradient(proof.placements[tangents[start]])
                if not backward.isdisjoint(node.all_input_nodes):
                    backward.add(node)
                try:
                    self._place(proof, node, node in backward)
                except UnprovableError as error:
                    raise UnprovableError(f"{_where(node)}: {error}") from None
        return proof

    def _place(self, proof: Proof, node: Node, in_backward: bool) -> None:
        if node.target is operator.getitem:
            whole = proof.placements[node.args[0]]  # type: ignore[index]
            index = node.args[1]
            is_known = isinstance(whole, tuple) and isinstance(index, int)
            proof.placements[node] = whole[index] if is_known else None  # type: ignore[index]
            return
        if not isinstance(node.target, torch._ops.OpOverload):
            if any(self._holds(proof, n) for n in node.all_input_nodes):
                raise UnprovableError(f"{node.target} is no operator that has a rule")
            tensor = isinstance(node.meta.get("val"), torch.Tensor)
            proof.placements[node] = Shared() if tensor else None
            return
        call = Call(node, proof.placements, self._sizes, self._samples, in_backward)
        places = [call.at(tensor) for tensor in call.tensors]
        packet = node.target.overloadpacket
        if call.counts_samples:
            raise call.refuse("computes with the number of samples")
        likeness = packet in ALIKE and packet not in RULES
        if likeness or not any(isinstance(place, (Sampled, PerUnit)) for place in places):
            proof.placements[node] = by_rule(call, RULES.get(packet))
            return
        if node.target.overloadpacket is torch.ops.aten.sym_size:
            proof.placements[node] = None
            return
        outcome = self._outcome(call)
        proof.placements[node] = outcome.placement
        per_unit = any(isinstance(place, PerUnit) for place in places)
        if per_unit and not outcome.takes_per_unit:
            proof.runs[node] = each_unit(node, proof.placements, outcome.placement)
        elif outcome.run is not None:
            proof.runs[node] = outcome.run
        elif _becomes_per_unit(outcome.placement):
            proof.runs[node] = each_unit(node, proof.placements, outcome.placement)

    def _outcome(self, call: Call) -> Outcome:
        if torch.Tag.nondeterministic_seeded in call.op.tags and not call.sampled:
            raise call.refuse("draws random numbers for each unit")
        found = RULES.get(call.op.overloadpacket)
        if not call.sampled:
            # Tensors per unit and shared ones: one call a unit, as in separate passes.
            if found is not None and call.op.overloadpacket in PER_UNIT_VIEWS:
                outcome = found(call)
                if outcome.takes_per_unit:
                    return outcome
            return Outcome(_all_per_unit(call.node.meta.get("val")))
        if found is not None:
            return found(call)
        if torch.Tag.pointwise in call.op.tags:
            return elementwise(call)
        raise call.refuse(
            "has no rule that says what it does to the samples; register one with "
            "domaingrad.engine.graph.operators.rule"
        )

    def _holds(self, proof: Proof, node: Node) -> bool:
        return isinstance(proof.placements[node], (Sampled, PerUnit, tuple))


def require_alike(proof: Proof, other: Proof) -> None:
    """Refuse what lies elsewhere in a batch of other sizes.

    Raises:
        UnprovableError: a tensor's samples do.
    """
    for node, place in proof.placements.items():
        if not _is_alike(place, other.placements[node]):
            raise UnprovableError(
                f"{_where(node)}: {node.target} puts samples elsewhere in a batch of another size"
            )


def _is_alike(one: Placements, other: Placements) -> bool:
    if isinstance(one, tuple) and isinstance(other, tuple):
        return all(_is_alike(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, Sampled) and isinstance(other, Sampled):
        return one.dim == other.dim and one.is_laid_as(other)
    return type(one) is type(other)


def _of_gradient(output: Placements) -> Placements:
    """Where the samples lie in the gradient of an output: a row a sample, if alike or not."""
    if isinstance(output, Sampled) and output == Sampled(0):
        return Sampled(0)
    if isinstance(output, Shared) and 0 in output.free:
        return Sampled(0)
    return output


_aten = torch.ops.aten
PER_UNIT_VIEWS = frozenset(
    {
        _aten.view,
        _aten._unsafe_view,
        _aten.reshape,
        _aten.t,
        _aten.transpose,
        _aten.permute,
        _aten.unsqueeze,
        _aten.squeeze,
        _aten.expand,
        _aten.select,
    }
)
"""Views that tensors per unit take as stacks."""


def _all_per_unit(value: Any) -> Placements:
    if isinstance(value, (tuple, list)):
        return tuple(PerUnit() if isinstance(v, torch.Tensor) else None for v in value)
    return PerUnit()


def _becomes_per_unit(placement: Placements) -> bool:
    if isinstance(placement, tuple):
        return any(isinstance(each, PerUnit) for each in placement)
    return isinstance(placement, PerUnit)


def _where(node: Node) -> str:
    """The module that called an operator, as a message speaks of it."""
    stack = node.meta.get("nn_module_stack") or node.meta.get("fwd_nn_module_stack") or {}
    if not stack:
        return "the model"
    path, kind = list(stack.values())[-1]
    name = path.partition("L['model']")[2].lstrip(".").replace("_modules['", "").replace("']", "")
    kind = kind if isinstance(kind, str) else kind.__name__
    kind = kind.rpartition(".")[2]
    return f"module {name!r} ({kind})" if name else f"the model ({kind})"
