"""A joint graph, proven and rewritten to tell units apart."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.utils.checkpoint import CheckpointPolicy

from ..units import Units
from .layout import PerUnit, Sampled, Shared
from .operators import Placements, TakesTurns, UnprovableError
from .per_unit import stacked
from .proof import Proof, Prover, require_alike
from .sizes import Conditions, Sizes, changeable

aten = torch.ops.aten


class Current(Protocol):
    """What a rewritten graph asks while it runs."""

    units: Units


@dataclass(frozen=True)
class Gradient:
    """One result of the backward pass."""

    index: int
    """Of the input."""
    node: Node


@dataclass
class Rewritten:
    """What was found of a joint graph."""

    gradients: list[Gradient | None]
    """What the backward pass gives for each input."""
    proof: Proof
    overwritten: list[int | None]
    """For each result of the forward pass: the input that is overwritten with it, or ``None`` for
    an output of the model."""
    differentiable: list[int]
    """Outputs that the backward pass takes gradients of, in that order."""
    of_samples: frozenset[int]
    """Outputs that have a row a sample."""
    ways: dict[int, str] = field(default_factory=dict)
    """By the name of a parameter, the operator that its gradients come from."""
    conditions: Conditions = field(default_factory=Conditions)
    """On the number of samples of each unit."""
    draws: bool = False
    """Whether it draws random numbers."""
    takes_turns: bool = False
    """Whether units of equal size pass it in fewer calls when their samples take turns."""


class Rewriter:
    """Proves joint graphs, and lets them tell the units apart.

    Args:
        sources: for each input of Dynamo's graph, where Dynamo found it.
        current: what the graphs ask while they run.
    """

    def __init__(self, sources: Sequence[str], current: Current) -> None:
        self._sources = sources
        self._current = current

    def rewrite(self, joint: GraphModule, fixed: bool = False) -> Rewritten:
        """Prove a joint graph, and rewrite it in place.

        Args:
            joint: forward and backward pass together.
            fixed: the sizes are constants of it, and it was proven before for sizes left open.

        Raises:
            UnprovableError: the units cannot be told apart.
        """
        _simplify(joint)
        output = next(node for node in joint.graph.nodes if node.op == "output")
        described = output.meta.get("desc")
        if described is None:
            raise UnprovableError("this version of PyTorch does not describe captured graphs")
        results = list(output.args[0])
        placeholders = [node for node in joint.graph.nodes if node.op == "placeholder"]
        tangents, starts = self._inputs(placeholders, described, results)
        conditions = Conditions()
        if fixed:
            sizes, samples = Sizes(), self._current.units.samples
            proof = Prover(sizes, samples).prove(joint.graph, starts, tangents)
        else:
            proof, conditions = self._prove(joint, placeholders, starts, tangents)
        found = self._results(proof, described, results)
        found.conditions = conditions
        found.differentiable = [
            node.meta["desc"].output.idx for node in placeholders if node in tangents
        ]
        self._count_batches(placeholders)
        for node, taken in proof.runs.items():
            node.meta["viewed"] = node.target in RESHAPED
            per_unit = any(_has_units(proof.placements[n]) for n in node.all_input_nodes)
            node.target = self._in_place(taken, per_unit)
        _let_views_copy(joint)
        _save_statistics(joint)
        found.takes_turns = any(isinstance(run, TakesTurns) for run in proof.runs.values())
        found.draws = any(_draws(node) for node in joint.graph.nodes)
        return found

    def _prove(
        self,
        joint: GraphModule,
        placeholders: Sequence[Node],
        starts: Mapping[Node, Placements],
        tangents: Mapping[Node, Node],
    ) -> tuple[Proof, Conditions]:
        """For the sizes that the graph was captured with, and for others."""
        inputs = [node for node, place in starts.items() if isinstance(place, Sampled)]
        numbers, of_samples = changeable(placeholders, inputs)
        if not of_samples:
            raise UnprovableError("the model makes a constant of the number of samples")
        proofs = []
        for sizes in (Sizes(of_samples=of_samples), Sizes(numbers, of_samples)):
            samples = {sizes.shape(node)[0] for node in inputs}
            if len(samples) != 1:
                raise UnprovableError("the inputs do not have one row a sample each")
            proofs.append(Prover(sizes, samples.pop()).prove(joint.graph, starts, tangents))
        require_alike(proofs[0], proofs[-1])
        return proofs[0], Conditions.of(placeholders, of_samples)

    def _inputs(
        self, placeholders: Sequence[Node], described: Sequence[Any], results: Sequence[Any]
    ) -> tuple[dict[Node, Node], dict[Node, Placements]]:
        """Outputs by the inputs that are their gradients, and what the other inputs hold."""
        tangents: dict[Node, Node] = {}
        starts: dict[Node, Placements] = {}
        for node in placeholders:
            what = node.meta["desc"]
            kind = type(what).__name__
            if kind == "TangentAOTInput":
                tangents[node] = results[list(described).index(what.output)]
            elif not isinstance(node.meta.get("val"), Tensor):
                starts[node] = None
            elif kind == "PlainAOTInput":
                source = self._sources[what.idx]
                starts[node] = Sampled(0) if source.startswith("L['inputs']") else Shared()
            else:
                raise UnprovableError(f"two inputs of the model share memory ({what})")
        return tangents, starts

    def _results(self, proof: Proof, described: Sequence[Any], results: Sequence[Any]) -> Rewritten:
        """What each result is, unless it is nothing that could be told apart."""
        gradients: list[Gradient | None] = []
        overwritten: list[int | None] = []
        of_samples: set[int] = set()
        ways: dict[int, str] = {}
        for what, node in zip(described, results, strict=True):
            place = proof.placements[node] if isinstance(node, Node) else None
            match type(what).__name__:
                case "PlainAOTOutput":
                    overwritten.append(None)
                    if place == Sampled(0) or (isinstance(place, Shared) and 0 in place.free):
                        of_samples.add(what.idx)
                    elif isinstance(place, (Sampled, PerUnit)):
                        shape = list(node.meta["val"].shape)
                        raise UnprovableError(
                            f"an output of shape {shape} does not hold the samples along its first "
                            f"dimension"
                        )
                case "InputMutationAOTOutput":
                    overwritten.append(what.mutated_input.idx)
                    if not isinstance(place, Shared):
                        source = self._sources[what.mutated_input.idx]
                        raise UnprovableError(f"{source} is overwritten by what samples make of it")
                case "GradAOTOutput":
                    if isinstance(place, Sampled):
                        raise UnprovableError("a parameter has one entry a sample")
                    is_there = isinstance(node, Node)
                    gradients.append(Gradient(what.grad_of.idx, node) if is_there else None)
                    if is_there:
                        ways[what.grad_of.idx] = _operator(node)
                case "NoneType" if not isinstance(node, Node):
                    gradients.append(None)
                case _:
                    raise UnprovableError(f"an output of the model is a view of another ({what})")
        return Rewritten(gradients, proof, overwritten, [], frozenset(of_samples), ways)

    def _count_batches(self, placeholders: Sequence[Node]) -> None:
        """Batch norms count their batches: one a unit."""
        for node in placeholders:
            what = node.meta["desc"]
            if type(what).__name__ != "PlainAOTInput":
                continue
            if "num_batches_tracked" in self._sources[what.idx]:
                for user in node.users:
                    counts = user.target is aten.add.Tensor and user.args == (node, 1)
                    if counts and any(_is_kept(after) for after in user.users):
                        user.target = self._in_place(_counted)

    def _in_place(self, taken: Callable[..., Any], stacks: bool = False) -> Callable[..., Any]:
        """What the graph calls in the place of an operator, which takes stacks or not."""
        current = self._current

        def by_unit(*args: Any, **kwargs: Any) -> Any:
            return taken(current.units, *args, **kwargs)

        def of_stacks(*args: Any, **kwargs: Any) -> Any:
            return taken(current.units, *map(stacked, args), **kwargs)

        return of_stacks if stacks else by_unit


def _has_units(placement: Placements) -> bool:
    if isinstance(placement, tuple):
        return any(map(_has_units, placement))
    return isinstance(placement, PerUnit)


def _is_kept(node: Node) -> bool:
    return node.op == "output" or node.target is aten.copy_.default


def _draws(node: Node) -> bool:
    """Whether an operator draws random numbers."""
    tags = getattr(node.target, "tags", ())
    if torch.Tag.nondeterministic_seeded not in tags:
        return False
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    return bool(given.get("dropout_p", 1.0) != 0.0)


def _counted(units: Units, batches: Tensor, _: int) -> Tensor:
    return batches + (1 if units.pooled else units.count)


def _operator(node: Node) -> str:
    """Of which operator a gradient is the result, apart from views."""
    while node.op == "call_function":
        inner = node.args[0] if node.args else None
        is_view = node.target in VIEWS or node.target is operator.getitem
        if not (is_view and isinstance(inner, Node)):
            return str(node.target)
        node = inner
    return node.name


RESHAPED = {aten.view.default, aten._unsafe_view.default, aten.reshape.default}
VIEWS = {aten.view.default, aten.t.default, aten.permute.default, aten._unsafe_view.default}


def _simplify(joint: GraphModule) -> None:
    """Take out what does nothing.

    t(t(x)) is x: so the gradient of a linear layer's weight is a product as it stands.
    """
    for node in joint.graph.nodes:
        if node.target is aten.t.default:
            inner = node.args[0]
            if isinstance(inner, Node) and inner.target is aten.t.default:
                node.replace_all_uses_with(inner.args[0])
        elif node.target is aten.detach.default:
            # Nothing here is seen by autograd.
            node.replace_all_uses_with(node.args[0])
    joint.graph.eliminate_dead_code()


def _let_views_copy(joint: GraphModule) -> None:
    """What runs unit by unit may lie otherwise in memory than what the graph was captured with."""
    for node in joint.graph.nodes:
        if node.target is aten.view.default:
            node.target = aten.reshape.default


def _save_statistics(joint: GraphModule) -> None:
    """Batch norms inside a checkpoint are not made again: they would move twice."""
    for node in joint.graph.nodes:
        if "recompute" in node.meta and "batch_norm" in node.name:
            for own in (node, *node.users):
                own.meta["recompute"] = CheckpointPolicy.MUST_SAVE
