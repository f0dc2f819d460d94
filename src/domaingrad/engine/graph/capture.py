"""A model's forward and backward pass as one graph, proven and rewritten to tell units apart."""

from __future__ import annotations

import operator
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.backends.debugging import boxed_nop
from torch._functorch.partitioners import default_partition
from torch.fx import GraphModule, Node
from torch.utils.checkpoint import CheckpointPolicy

from domaingrad.rules import ElementwiseRule

from ..batch import run
from ..errors import FOREIGN_BACKWARD, AgreementError
from ..gradients import Stacked, UnitGradients
from ..units import Units
from .layout import PerUnit, Sampled, Shared
from .operators import Placements, UnprovableError
from .per_unit import stacked
from .proof import Proof, Prover, require_alike
from .sizes import Conditions, Sizes, changeable

aten = torch.ops.aten


class RuleInGraph(Protocol):
    """A rule that needs no tensor but the one it is applied to, so that a compiler may take it."""

    rule: ElementwiseRule
    factors: Tensor | None
    """On the gradients of each unit, [K]."""
    scale: float
    """On the update."""

    def note(self, sums: Tensor) -> None:
        """Take sums over all components of each unit's gradients, [K], for what is not finite."""


class Receiver(Protocol):
    """Who is shown the units' gradients of each parameter."""

    @property
    def in_graph(self) -> RuleInGraph | None:
        """The rule, where a compiled graph may apply it in the place of :meth:`receive`."""

    def agreed(self, parameter: Tensor, update: Tensor) -> None:
        """What such a graph made of all units' gradients of a parameter."""

    def receive(self, parameter: Tensor, gradients: UnitGradients) -> Tensor | None:
        """All units' gradients of one tensor; what autograd gets, if it is no parameter."""


Compiler = Callable[["CapturedGraph", GraphModule], Callable[[Sequence[Any]], Sequence[Any]]]
"""From a captured graph, and what Dynamo gave, to its compiled forward pass."""


class NewGraph(Exception):  # noqa: N818
    """A graph that was just captured, before its first pass."""

    def __init__(self, graph: CapturedGraph) -> None:
        super().__init__("a new graph")
        self.graph = graph


class Pass:
    """What a pass through a captured graph needs to know: filled in by who makes the pass."""

    def __init__(self) -> None:
        self.units = Units(())
        self.receiver: Receiver | None = None
        self.arguments: Sequence[Any] = ()
        self.verifying = False
        """Whether a new graph may run before it was compared with separate passes."""
        self.graph: CapturedGraph | None = None
        """The graph that the latest pass went through."""
        self.expected: Callable[[], RuleInGraph | None] = lambda: None
        """The rule that the next walk back is most likely to apply."""

    @contextmanager
    def walking(self, units: Units, arguments: Sequence[Any], receiver: Receiver) -> Iterator[None]:
        """While autograd walks back through a graph that had these arguments."""
        self.units, self.arguments, self.receiver = units, arguments, receiver
        try:
            yield
        finally:
            self.arguments, self.receiver = (), None


class CapturedGraph:
    """One graph that Dynamo captured, with what was proven of it.

    Args:
        current: the pass that goes through it.
        graph: as Dynamo gives it.
        examples: its inputs.
        compiler: makes of it what is run once it was compared with separate passes; without one,
            it is run as it is.
    """

    def __init__(
        self,
        current: Pass,
        graph: GraphModule,
        examples: Sequence[Any],
        compiler: Compiler | None = None,
    ) -> None:
        self.current = current
        self._sources = [_source(node) for node in graph.graph.nodes if node.op == "placeholder"]
        self.checked: set[bool] = set()
        """Kinds of batches for which a step was compared with separate passes: with units of a
        single sample, which a graph may have been captured without a thought of, and without."""
        self._conditions = Conditions()
        self.losses: set[Any] = set()
        """Kinds of losses that were seen not to mix units."""
        self.ways: dict[str, str] = {}
        """By the name of a parameter, the operator that its gradients come from."""
        self._of_samples: set[int] = set()
        self.outputs: Sequence[Any] = ()
        """Of the latest pass, as its arguments."""
        self.arguments: Sequence[Any] = ()
        self.draws = False
        """Whether it draws random numbers."""
        self._compiled = None if compiler is None else compiler(self, deepcopy(graph))
        self._call = aot_autograd(
            fw_compiler=boxed_nop,
            bw_compiler=boxed_nop,
            partition_fn=self._partition,
        )(graph, examples)

    def __call__(self, *args: Any) -> Any:
        """The forward pass."""
        if not (self.current.verifying or self.current.units.any_single in self.checked):
            raise NewGraph(self)
        self._conditions.check(args, self.current.units.sizes)
        self.current.graph = self
        self.arguments = args
        if self._compiled is None or self.current.verifying:
            self.outputs = self.again(args)
        else:
            self.outputs = self._compiled(args)
        return self.outputs

    def again(self, arguments: Sequence[Any]) -> Sequence[Any]:
        """Another forward pass with the arguments of one before."""
        return self._call(*map(leaf, arguments))  # type: ignore[no-any-return]

    def holds_samples(self, output: Tensor) -> int | None:
        """The number of an output of the latest pass that has a row a sample."""
        for index, own in enumerate(self.outputs):
            if own is output:
                return index if index in self._of_samples else None
        return None

    def forget(self) -> None:
        """Let go of the latest pass."""
        self.outputs = self.arguments = ()

    def _partition(
        self, joint: GraphModule, inputs: Any, *, num_fwd_outputs: int, **options: Any
    ) -> tuple[GraphModule, GraphModule]:
        """Part the rewritten joint graph into forward and backward pass."""
        gradients, proof = self.rewrite(joint)
        joint.recompile()
        forward, backward = default_partition(
            joint, inputs, num_fwd_outputs=num_fwd_outputs, **options
        )
        self._receive(backward, gradients, proof)
        return forward, backward

    def rewrite(
        self, joint: GraphModule, fixed: bool = False
    ) -> tuple[list[Gradient | None], Proof]:
        """Prove the joint graph, and let it tell the units apart.

        Args:
            joint: forward and backward pass together.
            fixed: the sizes are constants of it, and it was proven before for sizes left open.

        Returns:
            What the backward pass gives for each input, and what was proven.

        Raises:
            UnprovableError: the units cannot be told apart.
        """
        _without_double_transposes(joint)
        output = next(node for node in joint.graph.nodes if node.op == "output")
        described = output.meta.get("desc")
        if described is None:
            raise UnprovableError("this version of PyTorch does not describe captured graphs")
        results = list(output.args[0])
        placeholders = [node for node in joint.graph.nodes if node.op == "placeholder"]
        tangents, starts = self._inputs(placeholders, described, results)
        if fixed:
            proof = Prover(Sizes(), self.current.units.samples).prove(joint.graph, starts, tangents)
        else:
            proof = self._prove(joint, placeholders, starts, tangents)
        self._check_outputs(proof, described, results)
        self._count_batches(placeholders)
        self.ways = {
            _name(self._sources[what.grad_of.idx]): _operator(node)
            for what, node in zip(described, results, strict=True)
            if type(what).__name__ == "GradAOTOutput" and isinstance(node, Node)
        }
        for node, taken in proof.runs.items():
            node.target = self._in_place(taken)
        _let_views_copy(joint)
        _save_statistics(joint)
        self.draws = any(_draws(node) for node in joint.graph.nodes)
        count = len(placeholders) - len(tangents)
        pairs = zip(described[-count:], results[-count:], strict=True)
        return [
            Gradient(what.grad_of.idx, node) if isinstance(node, Node) else None
            for what, node in pairs
        ], proof

    def _prove(
        self,
        joint: GraphModule,
        placeholders: Sequence[Node],
        starts: Mapping[Node, Placements],
        tangents: Mapping[Node, Node],
    ) -> Proof:
        """For the sizes that the graph was captured with, and for others."""
        inputs = [node for node, place in starts.items() if isinstance(place, Sampled)]
        numbers, of_samples = changeable(placeholders, inputs)
        if not of_samples:
            raise UnprovableError("the model makes a constant of the number of samples")
        self._conditions = Conditions.of(placeholders, of_samples)
        proofs = []
        for sizes in (Sizes(of_samples=of_samples), Sizes(numbers, of_samples)):
            samples = {sizes.shape(node)[0] for node in inputs}
            if len(samples) != 1:
                raise UnprovableError("the inputs do not have one row a sample each")
            proofs.append(Prover(sizes, samples.pop()).prove(joint.graph, starts, tangents))
        require_alike(proofs[0], proofs[-1])
        return proofs[0]

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

    def _check_outputs(
        self, proof: Proof, described: Sequence[Any], results: Sequence[Any]
    ) -> None:
        for what, node in zip(described, results, strict=True):
            if not isinstance(node, Node):
                continue
            place = proof.placements[node]
            match type(what).__name__:
                case "PlainAOTOutput":
                    if place == Sampled(0) or (isinstance(place, Shared) and 0 in place.free):
                        self._of_samples.add(what.idx)
                    elif isinstance(place, (Sampled, PerUnit)):
                        shape = list(node.meta["val"].shape)
                        raise UnprovableError(
                            f"an output of shape {shape} does not hold the samples along its first "
                            f"dimension"
                        )
                case "InputMutationAOTOutput":
                    if not isinstance(place, Shared):
                        source = self._sources[what.mutated_input.idx]
                        raise UnprovableError(f"{source} is overwritten by what samples make of it")
                case "GradAOTOutput":
                    if isinstance(place, Sampled):
                        raise UnprovableError("a parameter has one entry a sample")
                case _:
                    raise UnprovableError(f"an output of the model is a view of another ({what})")

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

    def _in_place(self, taken: Callable[..., Any]) -> Callable[..., Any]:
        """What the graph calls in the place of an operator."""
        current = self.current

        def per_unit(*args: Any, **kwargs: Any) -> Any:
            return taken(current.units, *(stacked(arg) for arg in args), **kwargs)

        return per_unit

    def _receive(
        self, backward: GraphModule, gradients: Sequence[Gradient | None], proof: Proof
    ) -> None:
        """Show each parameter's gradients to the receiver as soon as they are there."""
        output = next(node for node in backward.graph.nodes if node.op == "output")
        results = list(output.args[0])
        for place, (gradient, node) in enumerate(zip(gradients, results, strict=True)):
            if gradient is None or not isinstance(node, Node):
                continue
            kind = proof.placements[gradient.node]
            with backward.graph.inserting_after(node):
                taken = backward.graph.call_function(
                    self._receiving(gradient.index, isinstance(kind, PerUnit)), (node,)
                )
            taken.meta = dict(node.meta)
            results[place] = taken
        output.args = (tuple(results),)
        backward.graph.lint()
        backward.recompile()

    def _receiving(self, index: int, per_unit: bool) -> Callable[[Any], Tensor | None]:
        current = self.current

        def receive(gradients: Any) -> Tensor | None:
            if current.receiver is None:
                raise AgreementError(FOREIGN_BACKWARD)
            if not per_unit:
                gradients = alike(gradients, current.units)
            if not isinstance(gradients, UnitGradients):
                gradients = Stacked(gradients)
            return current.receiver.receive(current.arguments[index], gradients)

        return receive

    def is_of_model(self, index: int) -> bool:
        """Whether an input is a parameter or a buffer, and no sample."""
        return self._sources[index].startswith("L['model']")


def leaf(argument: Any) -> Any:
    """What autograd sees of a parameter, whose own ``.grad`` is written when all have agreed."""
    if isinstance(argument, nn.Parameter) and argument.requires_grad:
        return argument.detach().requires_grad_()
    return argument


@dataclass(frozen=True)
class Gradient:
    """One result of the backward pass."""

    index: int
    """Of the input."""
    node: Node


def alike(gradient: Tensor, units: Units) -> Tensor:
    """[K, *shape] of a gradient that no sample enters."""
    return gradient.expand(units.count, *gradient.shape)


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


def _source(node: Node) -> str:
    argument = node.meta.get("grapharg")
    if argument is None or argument.source is None:
        return ""
    name = argument.source.name
    return str(name() if callable(name) else name)


def _name(source: str) -> str:
    """The name of a parameter, from where Dynamo found it."""
    return ".".join(re.findall(r"\['([^']*)'\]", source)[1:])


def _operator(node: Node) -> str:
    """Of which operator a gradient is the result, apart from views."""
    while node.op == "call_function":
        inner = node.args[0] if node.args else None
        is_view = node.target in VIEWS or node.target is operator.getitem
        if not (is_view and isinstance(inner, Node)):
            return str(node.target)
        node = inner
    return node.name


VIEWS = {aten.view.default, aten.t.default, aten.permute.default, aten._unsafe_view.default}


def _without_double_transposes(joint: GraphModule) -> None:
    """t(t(x)) is x: so the gradient of a linear layer's weight is a product as it stands."""
    for node in joint.graph.nodes:
        if node.target is aten.t.default:
            inner = node.args[0]
            if isinstance(inner, Node) and inner.target is aten.t.default:
                node.replace_all_uses_with(inner.args[0])
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


def _passing(model: nn.Module, inputs: Any, options: Mapping[str, Any]) -> Any:
    return run(model, inputs, options)


_numbers = count()


def captured(
    current: Pass, compiler: Compiler | None = None
) -> Callable[[nn.Module, Any, Mapping[str, Any]], Any]:
    """A function that passes inputs through a model by way of captured graphs.

    It has code of its own, to which Dynamo ties what it captures.
    """
    # By the name of the code, Dynamo remembers which sizes have changed.
    code = _passing.__code__.replace(co_name=f"_passing_{next(_numbers)}")
    own = types.FunctionType(code, _passing.__globals__)

    def backend(graph: GraphModule, examples: Sequence[Any]) -> Any:
        run_plainly: Any = torch._dynamo.disable
        return run_plainly(CapturedGraph(current, graph, examples, compiler), recursive=False)

    return torch.compile(own, backend=backend, fullgraph=True)


def of_any_size(tensor: Tensor) -> Tensor:
    """The same, of which Dynamo takes the number of samples for one that changes.

    So the graph says where the model makes use of it: a unit has fewer samples than the batch.
    """
    tensor = tensor.detach()
    torch._dynamo.maybe_mark_dynamic(tensor, 0)
    return tensor
