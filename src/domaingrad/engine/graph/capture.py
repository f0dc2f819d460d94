"""A model's forward and backward pass as one graph, captured by Dynamo and AOTAutograd."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from functools import partial
from itertools import count
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.partitioners import default_partition
from torch.fx import GraphModule, Node
from torch.fx.experimental import _config as symbols
from torch.multiprocessing.reductions import StorageWeakRef

from ..batch import run
from ..errors import FOREIGN_BACKWARD, AgreementError
from ..gradients import Stacked, UnitGradients
from ..units import Units
from .layout import PerUnit
from .operators import UnprovableError
from .program import Half, Passed, Program, as_it_is
from .rewriting import Rewriter, Rewritten


class RuleInGraph(Protocol):
    """A rule that needs no tensor but the one it is applied to, so that a compiler may take it."""

    rule: Any
    factors: Tensor | None
    """On the gradients of each unit, [K]."""
    scale: Tensor | None
    """On the update, one number."""

    def note(self, largest: Tensor) -> None:
        """Take what is not finite, [K], where a gradient of that unit is not."""


class Receiver(Protocol):
    """Who is shown the units' gradients of each parameter."""

    @property
    def in_graph(self) -> RuleInGraph | None:
        """The rule, where a compiled graph may apply it in the place of :meth:`receive`."""

    def agreed(self, parameter: Tensor, update: Tensor) -> None:
        """What such a graph made of all units' gradients of a parameter."""

    def receive(self, parameter: Tensor, gradients: UnitGradients) -> None:
        """All units' gradients of one tensor that the graph is differentiated by."""


Compiler = Callable[["CapturedGraph", GraphModule], Callable[[Sequence[Any]], Program]]
"""From a captured graph, and what Dynamo gave, to the compiled program for some arguments."""


class NewGraph(Exception):  # noqa: N818
    """A graph that was just captured, before its first pass."""

    def __init__(self, graph: CapturedGraph) -> None:
        super().__init__("a new graph")
        self.graph = graph


class NotCaptured(Exception):  # noqa: N818
    """No graph that was captured before fits."""


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
        """On the way back through a graph that had these arguments."""
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
        self.checked: set[tuple[bool, bool]] = set()
        """Kinds of units for which a step was compared with separate passes, and is not due again.
        """
        self.passed_before: set[tuple[bool, bool]] = set()
        """Kinds of units for which it was compared ever."""
        self.losses: set[Any] = set()
        """Kinds of losses that were seen not to mix units."""
        self.passed: tuple[Program, Passed] | None = None
        """The latest pass."""
        _copy_views(graph)
        self._require_grad = {
            place
            for place, node in enumerate(_results(graph))
            if isinstance(node, Node) and getattr(_value(node), "requires_grad", False)
        }
        self._compiled = None if compiler is None else compiler(self, deepcopy(graph))
        self._rewriter = Rewriter(self._sources, current)
        self._found: Rewritten | None = None
        forward, backward = Half(), Half()
        aot_autograd(
            fw_compiler=lambda graph, _: _boxed(as_it_is(forward, graph)),
            bw_compiler=lambda graph, _: _boxed(as_it_is(backward, graph)),
            partition_fn=self._partition,
        )(graph, examples)
        if self._found is None:
            raise UnprovableError("no output depends on a parameter")
        self.program: Program = Program(self._found, forward, backward)
        """Of the graph as it is."""
        self.trained: list[int] | None = None
        """The parameters among the inputs that it is differentiated by, in the model's order; found
        when it is first passed."""
        self.ways: dict[int, str] = {}
        """Of each of them, by its ``id``: the operator that its gradients come from."""

    def __call__(self, *args: Any) -> Any:
        """The forward pass."""
        current = self.current
        if not (current.verifying or current.units.kind in self.checked):
            raise NewGraph(self)
        self.found.conditions.check(args, current.units.sizes)
        current.graph = self
        compiled = None if current.verifying else self._compiled
        program = self.program if compiled is None else compiled(args)
        passed = program.forward(args)
        self.passed = program, passed
        return passed.outputs

    @property
    def found(self) -> Rewritten:
        """What was proven."""
        assert self._found is not None
        return self._found

    def rewrite(self, joint: GraphModule, fixed: bool = False) -> Rewritten:
        """Prove the joint graph, and let it tell the units apart; as :meth:`Rewriter.rewrite`."""
        found = self._rewriter.rewrite(joint, fixed)
        if missing := self._require_grad.difference(found.differentiable):
            raise UnprovableError(f"output {min(missing)} of the model is a view of another tensor")
        return found

    def place_of(self, output: Tensor) -> int | None:
        """The number of an output of the latest pass."""
        outputs = [] if self.passed is None else self.passed[1].outputs
        return next((place for place, own in enumerate(outputs) if own is output), None)

    def put_in_order(self, trained: Sequence[nn.Parameter]) -> None:
        """Find the parameters that it is differentiated by among the inputs of the latest pass."""
        assert self.passed is not None
        arguments = self.passed[1].arguments
        rank = {id(parameter): place for place, parameter in enumerate(trained)}
        indices = [gradient.index for gradient in self.found.gradients if gradient is not None]
        found = [index for index in indices if id(arguments[index]) in rank]
        self.trained = sorted(found, key=lambda index: rank[id(arguments[index])])
        self.ways = {id(arguments[index]): way for index, way in self.found.ways.items()}

    def forget(self) -> None:
        """Let go of the latest pass."""
        self.passed = None

    def is_of_model(self, index: int) -> bool:
        """Whether an input is a parameter or a buffer, and no sample."""
        return self._sources[index].startswith("L['model']")

    def _partition(
        self, joint: GraphModule, inputs: Any, *, num_fwd_outputs: int, **options: Any
    ) -> tuple[GraphModule, GraphModule]:
        """Part the rewritten joint graph into forward and backward pass."""
        self._found = self.rewrite(joint)
        joint.recompile()
        forward, backward = default_partition(
            joint, inputs, num_fwd_outputs=num_fwd_outputs, **options
        )
        self._receive(backward)
        return forward, backward

    def _receive(self, backward: GraphModule) -> None:
        """Show each parameter's gradients to the receiver as soon as they are there."""
        output, results = backward.graph.output_node(), _results(backward)
        for place, (gradient, node) in enumerate(zip(self.found.gradients, results, strict=True)):
            if gradient is None or not isinstance(node, Node):
                continue
            kind = self.found.proof.placements[gradient.node]
            node = _before_views(node)  # noqa: PLW2901
            with backward.graph.inserting_after(node):
                taken = backward.graph.call_function(
                    self._receiving(gradient.index, isinstance(kind, PerUnit)), (node,)
                )
            taken.meta = dict(node.meta)
            results[place] = taken
        output.args = (tuple(results),)
        backward.graph.lint()
        backward.recompile()

    def _receiving(self, index: int, per_unit: bool) -> Callable[[Any], None]:
        current = self.current

        def receive(gradients: Any) -> None:
            if current.receiver is None:
                raise AgreementError(FOREIGN_BACKWARD)
            parameter = current.arguments[index]
            if not per_unit:
                gradients = alike(gradients, current.units)
            elif isinstance(gradients, UnitGradients) and gradients.shape != parameter.shape:
                gradients = gradients.tensor()
            if not isinstance(gradients, UnitGradients):
                gradients = Stacked(gradients.reshape(current.units.count, *parameter.shape))
            current.receiver.receive(parameter, gradients)

        return receive


def alike(gradient: Tensor, units: Units) -> Tensor:
    """[K, *shape] of a gradient that no sample enters."""
    return gradient.expand(units.count, *gradient.shape)


def _before_views(node: Node) -> Node:
    """What a gradient is a view of: a receiver takes it in any shape, if in that order."""
    while node.meta.get("viewed") and isinstance(node.args[0], Node) and len(node.users) == 1:
        node = node.args[0]
    return node


def _boxed(run: Callable[..., Any]) -> Callable[..., Any]:
    """A function of one list, as AOTAutograd is told."""
    called: Any = partial(run)
    called._boxed_call = True
    return called  # type: ignore[no-any-return]


def _copy_views(graph: GraphModule) -> None:
    """Let no output share memory with another or with an input: each has gradients of its own."""
    output, results = graph.graph.output_node(), _results(graph)
    seen = {_storage(node) for node in graph.graph.nodes if node.op == "placeholder"}
    for place, node in enumerate(results):
        storage = _storage(node)
        if storage is None:
            continue
        if storage in seen:
            with graph.graph.inserting_before(output):
                own = graph.graph.call_function(torch.clone, (node,))
            own.meta = dict(node.meta)
            results[place] = own
        seen.add(storage)
    output.args = (tuple(results),)
    graph.recompile()


def _results(graph: GraphModule) -> list[Any]:
    return list(graph.graph.output_node().args[0])  # type: ignore[arg-type]


def _value(node: Any) -> Any:
    return node.meta.get("example_value") if isinstance(node, Node) else None


def _storage(node: Any) -> StorageWeakRef | None:
    value = _value(node)
    if not isinstance(value, Tensor):
        return None
    return StorageWeakRef(value.untyped_storage())  # type: ignore[no-untyped-call]


def _source(node: Node) -> str:
    argument = node.meta.get("grapharg")
    if argument is None or argument.source is None:
        return ""
    name = argument.source.name
    return str(name() if callable(name) else name)


def _passing(model: nn.Module, inputs: Any, options: Mapping[str, Any]) -> Any:
    if not torch.compiler.is_compiling():
        raise NotCaptured
    return run(model, inputs, options)


_numbers = count()
_set_eval_frame = torch._C._dynamo.eval_frame.set_eval_frame


class Capture:
    """Passes inputs through a model by way of captured graphs.

    Args:
        current: what the graphs ask while they run.
        compiler: through which they are sent.
    """

    def __init__(self, current: Pass, compiler: Compiler | None = None) -> None:
        # Code of its own, to which Dynamo ties what it captures; by its name, Dynamo remembers
        # which sizes have changed.
        code = _passing.__code__.replace(co_name=f"_passing_{next(_numbers)}")
        self._function = types.FunctionType(code, _passing.__globals__)

        def backend(graph: GraphModule, examples: Sequence[Any]) -> Any:
            return CapturedGraph(current, graph, examples, compiler)

        self._capture = torch.compile(self._function, backend=backend, fullgraph=True)

    def known(self, model: nn.Module, inputs: Any, options: Mapping[str, Any]) -> Any:
        """The model's outputs, by a graph that was captured before.

        Raises:
            NotCaptured: there is none whose guards hold.
        """
        # As torch._dynamo.run does: what was captured is used, and nothing more is captured.
        before = _set_eval_frame(False)
        try:
            return self._function(model, inputs, options)
        finally:
            _set_eval_frame(before)

    def anew(
        self, model: nn.Module, inputs: Any, options: Mapping[str, Any], recurrent: bool = False
    ) -> Any:
        """The model's outputs, by a graph that is captured now.

        Args:
            model: the model.
            inputs: as the model takes them.
            options: passed to the model as they are.
            recurrent: whether there are recurrent layers, which Dynamo captures when told to.
        """
        with ExitStack() as patches:
            # Sizes that are the same by chance are not taken for one.
            patches.enter_context(symbols.patch(use_duck_shape=False))  # type: ignore[attr-defined]
            if recurrent:
                patches.enter_context(torch._dynamo.config.patch(allow_rnn=True))
            return self._capture(model, inputs, options)


def of_any_size(tensor: Tensor) -> Tensor:
    """The same, of which Dynamo takes the number of samples for one that changes.

    So the graph says where the model makes use of it: a unit has fewer samples than the batch.
    """
    tensor = tensor.detach()
    torch._dynamo.maybe_mark_dynamic(tensor, 0)
    return tensor
