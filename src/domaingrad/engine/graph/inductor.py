"""A captured graph through Inductor: the same proof and rewriting, for one tuple of sizes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from warnings import warn

import torch
from torch import Tensor, nn
from torch._guards import TracingContext, tracing
from torch._inductor import config
from torch._inductor.compile_fx import compile_fx, compile_fx_inner
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.exc import InvalidCxxCompiler
from torch._inductor.virtualized import V
from torch._subclasses import FakeTensor
from torch.func import functionalize
from torch.fx import Graph, GraphModule, Interpreter, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg
from torch.fx.traceback import preserve_node_meta

from domaingrad.rules.authoring import ElementwiseRule
from domaingrad.rules.statistics import accumulation_dtype, statistics_of

from ..errors import FOREIGN_BACKWARD, AgreementError, is_out_of_memory
from ..gradients import Stacked
from ..units import Units
from .capture import CapturedGraph, Receiver, RuleInGraph, alike
from .compiled_check import require_same
from .layout import PerUnit
from .operators import UnprovableError
from .per_unit import stacked
from .program import Half, Program
from .rewriting import Gradient, Rewritten

aten = torch.ops.aten

MOST_SIZES = 8
"""Tuples of sizes that a graph is compiled for; with more, it runs without the compiler."""

UNROLLED = 8
"""Units up to which a compiler takes their sums in one loop with the rule."""


class InductorGraphs:
    """The programs of a captured graph, compiled for each tuple of sizes that comes by.

    Args:
        options: of Inductor, as ``torch.compile`` reads them from a user's.
        captured: the graph, with what was proven of it.
        graph: as Dynamo gives it.
    """

    def __init__(
        self, options: Mapping[str, Any], captured: CapturedGraph, graph: GraphModule
    ) -> None:
        self._options = options
        self._captured = captured
        self._graph = graph
        self._by_sizes: dict[Hashable, Program] = {}

    def __call__(self, args: Sequence[Any]) -> Program:
        """The program for these arguments."""
        units = self._captured.current.units
        key = (units, *(self._described(i, arg) for i, arg in enumerate(args)))
        if key not in self._by_sizes:
            self._by_sizes[key] = self._compile(args)
        return self._by_sizes[key]

    def _described(self, index: int, arg: Any) -> Hashable:
        """What is a constant of a compiled graph; Dynamo guards the model's own tensors."""
        if isinstance(arg, Tensor):
            return None if self._captured.is_of_model(index) else (arg.shape, arg.stride())
        return arg if isinstance(arg, (bool, int, float, str)) else None

    def _compile(self, args: Sequence[Any]) -> Program:
        captured = self._captured
        if len(self._by_sizes) >= MOST_SIZES:
            warn(
                f"the model was compiled for {MOST_SIZES} tuples of domains' sizes; others run "
                f"without the compiler. Draw batches with the same number of samples of each "
                f"domain.",
                RuntimeWarning,
                stacklevel=2,
            )
            return captured.program
        inline = _Inline(captured)
        inner = _Inner(captured, inline, self._options)
        try:
            # What a cache holds was made without the pass.
            with torch._functorch.config.patch(
                enable_autograd_cache=False, force_non_lazy_backward_lowering=True
            ):
                compile_fx(
                    _with_numbers(self._graph, args),
                    list(args),
                    inner_compile=inner,
                    config_patches={**self._options, "joint_custom_pre_pass": inline},
                    decompositions={},
                )
        except UnprovableError:
            raise
        except Exception as error:
            raise _explained(error) from error
        program = Program(inline.found, inner.forward, inner.backward)
        if not captured.found.draws:
            require_same(captured, args, program)
        return program


def _with_numbers(graph: GraphModule, args: Sequence[Any]) -> GraphModule:
    """A copy in which the sizes that were left open are these numbers."""
    own = copy.deepcopy(graph)
    for node, arg in zip(own.graph.find_nodes(op="placeholder"), args, strict=True):
        if isinstance(arg, (int, float)):
            number = partial(_replaced, node, arg)
            for user in list(node.users):
                user.args = map_arg(user.args, number)
                user.kwargs = map_arg(user.kwargs, number)
    own.recompile()
    return own


def _replaced(node: Node, number: float, found: Node) -> Any:
    return number if found is node else found


class _Inline(CustomGraphPass):
    """Proves and rewrites the joint graph, and traces what it then calls, in place.

    The gradients of parameters become stacks [K, *shape].
    """

    def __init__(self, captured: CapturedGraph) -> None:
        self._captured = captured
        self._found: Rewritten | None = None

    @property
    def found(self) -> Rewritten:
        """What was found of the joint graph."""
        assert self._found is not None
        return self._found

    def __call__(self, graph: Graph) -> None:
        """Work on the joint graph."""
        joint = graph.owning_module
        assert joint is not None
        found = self._found = self._captured.rewrite(joint, fixed=True)
        output = graph.output_node()
        results = _results(output)
        first = len(results) - len(found.gradients)
        with graph.inserting_before(output):
            for place, gradient in enumerate(found.gradients, first):
                if gradient is not None:
                    each = isinstance(found.proof.placements[gradient.node], PerUnit)
                    units = self._captured.current.units
                    results[place] = graph.call_function(_Stack(units, each), (results[place],))
        output.args = (tuple(results),)
        _inline(joint)

    def uuid(self) -> str:
        """All that it does can be seen in the graph that is compiled."""
        return "domaingrad"


@dataclass(frozen=True)
class _Stack:
    """What the graph calls to have the gradients of a parameter, [K, *shape]."""

    units: Units
    per_unit: bool
    __name__ = "stack"

    def __call__(self, gradient: Any) -> Tensor:
        """Of gradients per unit, or of one that is alike for all."""
        found: Tensor = stacked(gradient) if self.per_unit else alike(gradient, self.units)
        return found


def _inline(joint: GraphModule) -> None:
    """Trace a graph that calls Python functions down to what a compiler knows, in place."""
    graph = joint.graph
    output = graph.output_node()
    results, described = _results(output), dict(output.meta)
    moved = [(n.args[0], n.args[1], n.meta) for n in graph.nodes if n.target is aten.copy_.default]
    output.args = ((*results, *(new for _, new, _ in moved)),)
    for node in reversed(graph.nodes):
        if node.target is aten.copy_.default:
            node.replace_all_uses_with(node.args[1], lambda user: user is not output)
            graph.erase_node(node)
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    run = partial(Interpreter(joint).run, enable_io_processing=False)
    traced = _traced(run, [node.meta.get("val", 0) for node in inputs])  # Numbers are unused.
    for node in reversed(graph.nodes):
        if node.op != "placeholder":
            graph.erase_node(node)
    found = list(_copied(traced, graph, joint, inputs))
    for (into, _, meta), new in zip(moved, found[len(results) :], strict=True):
        graph.call_function(aten.copy_.default, (into, new)).meta = dict(meta)
    graph.output(tuple(found[: len(results)])).meta = described
    graph.lint()
    joint.recompile()


def _results(output: Node) -> list[Any]:
    return list(output.args[0])  # type: ignore[arg-type]


def _copied(
    traced: GraphModule, graph: Graph, owner: GraphModule, inputs: Sequence[Node]
) -> Sequence[Any]:
    """Put a traced graph into another, where this inserts; what the traced one returns."""
    own = [node for node in traced.graph.nodes if node.op == "placeholder"]
    copies = dict(zip(own, inputs, strict=True))
    found: Any = graph.graph_copy(traced.graph, copies)
    for node, other in copies.items():
        if node.op == "get_attr":
            other.target = f"_inlined_{len(owner._buffers)}"
            owner.register_buffer(other.target, getattr(traced, node.target), persistent=False)
    return found if isinstance(found, (tuple, list)) else (found,)


def _traced(function: Callable[..., Any], values: Sequence[Any]) -> GraphModule:
    """A function of fake tensors as a graph of operators that change no tensor."""
    mode = next(value.fake_mode for value in values if isinstance(value, FakeTensor))
    trace = make_fx(
        functionalize(function),
        decomposition_table=select_decomp_table(),
        _allow_non_fake_inputs=True,
    )
    with (
        mode,
        torch.no_grad(),
        preserve_node_meta(),
        torch._C._DisableAutocast(),
        torch.compiler._compile_session_context(),
    ):
        return trace(*values)


class _Inner:
    """Inductor's compiler of one graph, the backward one once it is known what is wanted of it."""

    def __init__(
        self, captured: CapturedGraph, inline: _Inline, options: Mapping[str, Any]
    ) -> None:
        self._captured, self._inline, self._options = captured, inline, options
        self.forward, self.backward = Half(), Half()

    def __call__(
        self, graph: GraphModule, examples: Sequence[Any], is_backward: bool = False, **more: Any
    ) -> Any:
        """Compile."""
        more.pop("get_decomp_fn", None)
        (self.backward if is_backward else self.forward).note(graph)
        if not is_backward:
            compiled = compile_fx_inner(graph, examples, **more)
            self.forward.run = compiled
            return compiled

        def compile_now(graph: GraphModule, examples: Sequence[Any]) -> Callable[..., Any]:
            with tracing(context), V.set_fake_mode(fake_mode), config.patch(patches):
                return compile_fx_inner(graph, examples, is_backward=True, **more)

        context, fake_mode = TracingContext.get(), V.fake_mode
        patches = dict(self._options)
        gradients = self._inline.found.gradients
        walk = _Backward(self._captured, graph, examples, gradients, compile_now)
        self.backward.run = walk
        return walk


class _Backward:
    """The backward pass, compiled for each way of what becomes of the gradients.

    A rule that needs but one tensor at a time is compiled with it; for all others it returns the
    stacks, which the receiver is shown.
    """

    def __init__(
        self,
        captured: CapturedGraph,
        graph: GraphModule,
        examples: Sequence[Any],
        gradients: Sequence[Gradient | None],
        compile_now: Callable[[GraphModule, Sequence[Any]], Callable[..., Any]],
    ) -> None:
        self._boxed_call = True  # All inputs come in one list, which frees them as it likes.
        self._captured = captured
        self._graph, self._examples = graph, list(examples)
        self._gradients = gradients
        self._compile = compile_now
        self._stacks: Callable[..., Any] | None = None
        self._by_rule: dict[Hashable, Callable[..., Any] | None] = {}

    def __call__(self, args: list[Any]) -> list[Any]:
        """The gradients of the inputs."""
        receiver = self._captured.current.receiver
        if receiver is None:
            raise AgreementError(FOREIGN_BACKWARD)
        rule = receiver.in_graph
        together = None if rule is None else self._with_rule(rule)
        if rule is None or together is None:
            if self._stacks is None:
                self._stacks = self._compiled(copy.deepcopy(self._graph), self._examples)
            self._show(list(self._stacks(args)), receiver, [])
            return []
        args += _numbers(rule)
        *results, sums = together(args)
        rule.note(sums)
        self._show(results, receiver, self._parameters)
        return []

    def _show(self, results: list[Any], receiver: Receiver, agreed: Sequence[int]) -> None:
        """Show the receiver all of it."""
        arguments = self._captured.current.arguments
        for place, gradient in enumerate(self._gradients):
            if gradient is None or results[place] is None:
                continue
            parameter, found = arguments[gradient.index], results[place]
            results[place] = None
            if place in agreed:
                receiver.agreed(parameter, found)
            else:
                receiver.receive(parameter, Stacked(found))

    @property
    def _parameters(self) -> list[int]:
        """Places of those gradients that a rule is applied to."""
        arguments = self._captured.current.arguments
        return [
            place
            for place, gradient in enumerate(self._gradients)
            if gradient is not None and isinstance(arguments[gradient.index], nn.Parameter)
        ]

    def _with_rule(self, rule: RuleInGraph) -> Callable[..., Any] | None:
        """The graph that applies the rule, unless the rule cannot be traced."""
        key = (_state(rule.rule), rule.factors is None, rule.scale is None)
        if key not in self._by_rule:
            graph = copy.deepcopy(self._graph)
            numbers = _numbers(rule)
            fake = next(x.fake_mode for x in self._examples if isinstance(x, FakeTensor))
            examples = [fake.from_tensor(x, static_shapes=True) for x in numbers]
            agreed = _append(graph, rule, examples, self._parameters)
            self._by_rule[key] = (
                self._compiled(graph, [*self._examples, *examples]) if agreed else None
            )
        return self._by_rule[key]

    def _compiled(self, graph: GraphModule, examples: Sequence[Any]) -> Callable[..., Any]:
        try:
            return self._compile(graph, examples)
        except Exception as error:
            raise _explained(error) from error


def _numbers(rule: RuleInGraph) -> list[Tensor]:
    """Further inputs of the backward graph: the factors, and the scale."""
    return [number for number in (rule.factors, rule.scale) if number is not None]


def _state(rule: ElementwiseRule) -> Hashable:
    """What a rule's numbers depend on."""
    state = type(rule), tuple(vars(rule).items())
    try:
        hash(state)
    except TypeError:
        return type(rule), repr(vars(rule))
    return state


def _append(
    graph: GraphModule, rule: RuleInGraph, numbers: Sequence[Tensor], places: Sequence[int]
) -> bool:
    """Let the backward graph apply a rule to each of its stacks; whether the rule can be traced."""
    own = graph.graph
    output = own.output_node()
    results = _results(output)
    last = [node for node in own.nodes if node.op == "placeholder"][-1]
    more: list[Node] = []
    with own.inserting_after(last):
        for name, value in reversed(list(zip(_names(rule), numbers, strict=True))):
            node = own.placeholder(name)
            node.meta["val"] = value
            more.insert(0, node)
    known: dict[Hashable, GraphModule] = {}
    sums = []
    for place in places:
        stack = results[place]
        if not isinstance(stack, Node):
            continue
        value = stack.meta["val"]
        kind = value.shape, value.stride(), value.dtype, value.device
        if kind not in known:
            found = _traced_rule(rule, value, numbers)
            if found is None:
                return False
            known[kind] = found
        after = stack if stack.op != "placeholder" else (more[-1] if more else last)
        with own.inserting_after(after):
            anchor = own.call_function(aten.alias.default, (stack,))
        with own.inserting_before(anchor):
            results[place], of_units = _copied(known[kind], own, graph, [stack, *more])
        own.erase_node(anchor)
        sums.append(of_units)
    with own.inserting_before(output):
        results.append(_total(own, sums))
    output.args = (tuple(results),)
    own.lint()
    graph.recompile()
    return True


def _names(rule: RuleInGraph) -> list[str]:
    wanted = {"factors": rule.factors is not None, "loss_scale": rule.scale is not None}
    return [name for name, is_wanted in wanted.items() if is_wanted]


def _total(graph: Graph, sums: Sequence[Node]) -> Node:
    """Σ of [K] over parameters."""
    joined = graph.call_function(aten.cat.default, ([_row(graph, each) for each in sums],))
    parts = [each.meta["val"] for each in sums]
    joined.meta["val"] = parts[0].new_empty((len(parts), len(parts[0])))
    total = graph.call_function(aten.sum.dim_IntList, (joined, [0]))
    total.meta["val"] = parts[0].new_empty(len(parts[0]))
    return total


def _row(graph: Graph, node: Node) -> Node:
    row = graph.call_function(aten.unsqueeze.default, (node, 0))
    row.meta["val"] = node.meta["val"].unsqueeze(0)
    return row


def _traced_rule(
    given: RuleInGraph, stack: Tensor, numbers: Sequence[Tensor]
) -> GraphModule | None:
    """The rule as a graph; ``None`` where it draws random numbers or looks at its numbers."""
    rule, names = given.rule, _names(given)

    def update(stack: Tensor, *numbers: Tensor) -> tuple[Tensor, Tensor]:
        more = dict(zip(names, numbers, strict=True))
        g = stack.flatten(1) if stack.ndim > 1 else stack.unsqueeze(1)
        g = g.to(accumulation_dtype(g.dtype))
        sums = _sums(g).float()
        if "factors" in more:
            g = g * more["factors"].to(g).unsqueeze(1)
        statistics = statistics_of(g, rule.statistics | {"mean"}, counting=g.dtype)
        mean = statistics.mean
        found = rule.update(statistics)
        # Not to be hidden by a rule: NaN where any gradient is not finite.
        found = found + (mean - mean)
        if "loss_scale" in more:
            found = found * more["loss_scale"].to(found)
        return found.to(stack.dtype).view(stack.shape[1:]), sums

    try:
        traced = _traced(update, [stack, *numbers])
    except (RuntimeError, TypeError, ValueError):
        return None
    nodes = traced.graph.nodes
    drawn = any(
        torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()) for node in nodes
    )
    return None if drawn else traced


def _sums(g: Tensor) -> Tensor:
    if len(g) > UNROLLED:
        return g.sum(1)
    return torch.stack([row.sum() for row in g.unbind(0)])


def _explained(error: Exception) -> Exception:
    """What to raise for an error of the compiler."""
    inner = getattr(error, "inner_exception", error)
    if is_out_of_memory(inner) or isinstance(inner, (AgreementError, UnprovableError)):
        return inner
    if isinstance(inner, InvalidCxxCompiler) or type(inner).__name__ == "TritonMissing":
        return AgreementError(
            f"the model is to be compiled, and PyTorch finds no compiler ({_first(inner)}). "
            f"Install a C++ compiler (on a GPU: Triton), or leave compile out."
        )
    return AgreementError(
        f"Inductor cannot compile the model ({type(inner).__name__}: {_first(inner)}). Leave "
        f"compile out, or change the options."
    )


def _first(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")
