"""One forward and one backward for all units of a batch, by way of a captured graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed, TorchDynamoException
from torch.utils._pytree import tree_flatten, tree_map_only

from ..batch import Batch, Order, run
from ..errors import (
    FOREIGN_BACKWARD,
    MIXED_LOSSES,
    UNREACHED,
    AgreementError,
    AuditError,
    InconclusiveError,
    UnseenModelError,
    UnsupportedModelError,
)
from ..gradients import Given, Stacked, UnitGradients
from ..inventory import Inventory, preserved
from ..units import Units
from ..writing import write
from .capture import (
    Capture,
    CapturedGraph,
    NewGraph,
    NotCaptured,
    Pass,
    RuleInGraph,
    of_any_size,
)
from .operators import UnprovableError
from .verification import verify

FEWEST_OF_ONE_UNIT = 4
"""Samples of a batch of one unit that can be compared as two."""

ONE_BY_ONE = {"cpu"}
"""Where domains lie one after the other: each is so much work that calls for all pay nothing."""

RARELY = 1000
"""Steps from one audit to the next in a long training."""

MOST_GRAPHS = 3
"""Graphs that are looked at in one step, for a model that is another one each time."""


class Receiver(Protocol):
    """What is done with the units' gradients of each parameter."""

    @property
    def in_graph(self) -> RuleInGraph | None:
        """The rule, where a compiled graph may apply it."""

    def receive(self, index: int, gradients: UnitGradients) -> None:
        """Take the gradients of one parameter."""

    def finish(self) -> dict[int, Tensor]:
        """At the end of the pass: what is added to ``.grad``, by index."""


class GraphEngine:
    """Captures a model's graphs, proves them, compares their first step, and passes batches.

    Args:
        of_samples: the units are the samples, and batch norms in training mode look at the whole
            batch.
        compiler: options of Inductor, through which the graphs are sent; ``None`` runs them as
            they are.
        audited: compare a step with separate passes again and again, as :func:`is_due` says.
    """

    def __init__(
        self,
        of_samples: bool = False,
        compiler: Mapping[str, Any] | None = None,
        audited: bool = False,
    ) -> None:
        self._of_samples = of_samples
        self._audited = audited
        self._steps, self._last_seen_right = 0, 0
        self._current = Pass()
        compile_graph = None
        if compiler is not None:
            from .inductor import InductorGraphs  # noqa: PLC0415, a second to import

            compile_graph = partial(InductorGraphs, compiler)
        self._capture = Capture(self._current, compile_graph)
        self._unsupported: dict[Hashable, str] = {}
        self._takes_turns = False

    @property
    def ways(self) -> Mapping[int, str]:
        """By the ``id`` of a parameter, the operator that its gradients came from."""
        return {} if self._current.graph is None else self._current.graph.ways

    def forward(
        self,
        model: nn.Module,
        batch: Batch,
        inputs: Any,
        options: Mapping[str, Any],
        expected: Callable[[], RuleInGraph | None] = lambda: None,
    ) -> tuple[MixedPass, Any]:
        """Pass a batch through the model.

        Args:
            model: the model.
            batch: which sample belongs to which unit.
            inputs: as the model takes them.
            options: passed to the model as they are.
            expected: the rule that the walk back is most likely to apply, where a compiler may.

        Raises:
            UnsupportedModelError: no graph of the model can be proven to tell the units apart.
        """
        if self._unsupported:
            kind = _kind(Inventory(model), inputs, options)
            if kind in self._unsupported:
                raise UnsupportedModelError(self._unsupported[kind])
        if batch.size < 2:
            raise InconclusiveError("a batch of one sample shows no layout")
        self._current.expected = expected
        try:
            order, tree = self._passed(model, batch, inputs, options)
        except (InconclusiveError, UnseenModelError):
            raise
        except UnsupportedModelError as error:
            self._unsupported[_kind(Inventory(model), inputs, options)] = str(error)
            raise
        graph = self._current.graph
        assert graph is not None
        if graph.trained is None:
            graph.put_in_order(Inventory(model).trained)
        try:
            passed = MixedPass(model, batch, order, self._current, graph)
            if isinstance(tree, Tensor):
                return passed, passed.output(tree)
            return passed, tree_map_only(Tensor, passed.output, tree)
        finally:
            graph.forget()

    def _passed(
        self, model: nn.Module, batch: Batch, given: Any, options: Mapping[str, Any]
    ) -> tuple[Order, Any]:
        inventory = None
        self._steps += 1
        if self._audited and self._current.graph is not None and is_due(self._steps):
            self._current.graph.checked.clear()
        for _ in range(MOST_GRAPHS):
            order = self._order(batch, given)
            self._current.units, inputs = order.units, order.of(given)
            try:
                return order, self._capture.known(model, inputs, options)
            except NewGraph as new:
                graph = new.graph
            except NotCaptured:
                inventory = Inventory(model)
                inputs = tree_map_only(Tensor, of_any_size, inputs)
                try:
                    return order, self._captured(inventory, inputs, options)
                except NewGraph as new:
                    graph = new.graph
            inventory = inventory or Inventory(model)
            again = order.units.kind in graph.passed_before
            self._takes_turns = graph.found.takes_turns
            order = self._order(batch, given)
            inputs = tree_map_only(Tensor, of_any_size, order.of(given))
            self._current.units = _apart(order.units)
            try:
                verify(
                    inventory,
                    self._current.units,
                    inputs,
                    options,
                    self._current,
                    graph,
                    partial(self._capture.known, model, inputs, options),
                )
            except InconclusiveError:
                if not again:
                    raise
            except UnsupportedModelError as error:
                if not again:
                    raise
                raise AuditError(
                    f"step {self._steps} in one pass differs from separate passes ({error}); it "
                    f"did not in step {self._last_seen_right}. Updates since then may be wrong: "
                    f"go back to a checkpoint, and say engine='streaming'."
                ) from error
            self._last_seen_right = self._steps
            graph.checked.add(order.units.kind)
            graph.passed_before.add(order.units.kind)
        raise InconclusiveError("the model is another graph each time")

    def _order(self, batch: Batch, inputs: Any) -> Order:
        """How the samples are put for the model."""
        if self._of_samples:
            return batch.of_samples
        turns = self._takes_turns and batch.can_take_turns
        return batch.by_turns if turns and _device(inputs) not in ONE_BY_ONE else batch.one_by_one

    def _captured(self, inventory: Inventory, inputs: Any, options: Mapping[str, Any]) -> Any:
        if inventory.out_of_sight is not None:
            raise UnseenModelError(inventory.out_of_sight)
        model, recurrent = inventory.model, inventory.recurrent
        try:
            try:
                return self._capture.anew(model, inputs, options, recurrent)
            except BackendCompilerFailed:
                raise
            except TorchDynamoException:
                # What a model does in its first pass only is over after one; warnings that Dynamo
                # meets are the model's, where they are errors, say, in tests.
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    _prepare(inventory, inputs, options)
                    return self._capture.anew(model, inputs, options, recurrent)
        except NotCaptured:
            raise UnsupportedModelError("torch.compile is switched off") from None
        except BackendCompilerFailed as error:
            inner = error.inner_exception
            if isinstance(inner, (MemoryError, torch.OutOfMemoryError)):
                raise inner from error
            if isinstance(inner, UnprovableError):
                raise UnsupportedModelError(str(inner)) from None
            raise UnsupportedModelError(f"its graph cannot be built: {_first(inner)}") from error
        except TorchDynamoException as error:
            raise UnsupportedModelError(f"it cannot be captured whole: {_first(error)}") from error


def is_due(step: int) -> bool:
    """Whether a step is audited: steps 2, 4, 8, … 512, then every thousandth.

    >>> [step for step in range(1, 2100) if is_due(step)]
    [2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 2000]
    """
    if step < RARELY:
        return step > 1 and step & (step - 1) == 0
    return step % RARELY == 0


def _device(inputs: Any) -> str:
    if isinstance(inputs, Tensor):
        return inputs.device.type
    return next(leaf.device.type for leaf in tree_flatten(inputs)[0] if isinstance(leaf, Tensor))


def _prepare(inventory: Inventory, inputs: Any, options: Mapping[str, Any]) -> None:
    """A plain pass that leaves nothing behind but what a model does once."""
    devices = {p.device for p in inventory.trained if p.device.type == "cuda"}
    with preserved(inventory), torch.random.fork_rng(devices=devices), torch.no_grad():
        run(inventory.model, inputs, options)


def _apart(units: Units) -> Units:
    """What shows that units are told apart: one alone is compared as two."""
    if units.count > 1:
        return units
    if units.samples < FEWEST_OF_ONE_UNIT:
        raise InconclusiveError("so few samples of one domain alone show no layout")
    half = units.samples // 2
    return Units((half, units.samples - half), units.pooled)


def _first(error: BaseException) -> str:
    """The first line of what an error says, and the line of the model's code it speaks of."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    code = [line for line in lines if line.startswith("File ")]
    said = lines[0] if lines else type(error).__name__
    return f"{said} ({code[-1]})" if code else said


class MixedPass:
    """A mixed batch on its way through the model, and back.

    Autograd sees the outputs as they come out of the graph: the losses reach back to them, and from
    there the graph's own backward pass goes on.

    Args:
        model: the model.
        batch: which samples belong to which domain.
        order: how they were put for the model.
        current: what the captured graph asks while it runs.
        graph: the graph, which was just passed.
    """

    def __init__(
        self, model: nn.Module, batch: Batch, order: Order, current: Pass, graph: CapturedGraph
    ) -> None:
        assert graph.passed is not None
        self.batch = batch
        self._model = model
        self._order = order
        self._current = current
        self._graph = graph
        self._program, self._passed = graph.passed
        self._walking = False
        self._cuts: dict[int, Tensor] = {}
        self._looked_at: tuple[Tensor, list[Tensor], Hashable] | None = None

    def parameters_behind(self, losses: Tensor) -> list[nn.Parameter]:
        """The parameters that losses may depend on, in the model's order."""
        leaves, _ = self._look_at(losses)
        if leaves:
            return Inventory(self._model).trained
        arguments = self._passed.arguments
        return [arguments[index] for index in self._graph.trained or ()]

    def _look_at(self, losses: Tensor) -> tuple[list[Tensor], Hashable]:
        """What losses depend on, not by way of the outputs, and of what calls they are made."""
        if self._looked_at is None or self._looked_at[0] is not losses:
            leaves, kind = _behind(losses)
            cuts = {id(cut) for cut in self._cuts.values()}
            self._looked_at = losses, [v for v in leaves if id(v) not in cuts], kind
        return self._looked_at[1:]

    @property
    def has_graph(self) -> bool:
        """Whether anything can be walked backward."""
        return bool(self._cuts)

    def output(self, tensor: Tensor) -> Tensor:
        """An output of the model, in the order of the batch."""
        if tensor.ndim == 0 or len(tensor) != self.batch.size:
            raise UnsupportedModelError(f"an output has shape {list(tensor.shape)}")
        found, place = self._graph.found, self._graph.place_of(tensor)
        cut = tensor.detach() if place not in self._cuts else self._cuts[place]
        if place is not None and place in found.differentiable and place not in self._cuts:
            if place not in found.of_samples:
                raise UnsupportedModelError(
                    f"an output of shape {list(tensor.shape)} does not hold the samples"
                )
            cut.requires_grad_().register_hook(self._require_own_walk)  # type: ignore[no-untyped-call]
            self._cuts[place] = cut
        return self._order.undone(cut)

    def backward(
        self, losses: Tensor, receiver: Receiver, parameters: Sequence[nn.Parameter]
    ) -> None:
        """Walk back from the sum over domains of their mean losses.

        Args:
            losses: one a sample.
            receiver: what is done with the gradients.
            parameters: those that the receiver knows by their place here, no less than
                :meth:`parameters_behind` the losses.

        Raises:
            AgreementError: the losses mix domains or do not depend on the outputs.
        """
        route = _Route(parameters, receiver)
        self._walking = True
        try:
            leaves, kind = self._look_at(losses)
            direct = route.among(leaves)
            if direct or kind not in self._graph.losses:
                gradients = self._domain_by_domain(losses, direct, route)
                self._graph.losses.add(kind)
            else:
                gradients = self._at_once(losses)
        finally:
            self._walking = False
        self._cuts, self._looked_at = {}, None
        places = self._graph.found.differentiable
        with self._current.walking(self._order.units, self._passed.arguments, route):
            self._program.backward(self._passed, [gradients.get(place) for place in places])
        route.finish()

    def _require_own_walk(self, gradient: Tensor) -> None:
        if not self._walking:
            raise AgreementError(FOREIGN_BACKWARD)

    def _at_once(self, losses: Tensor) -> dict[int, Tensor]:
        torch.autograd.backward(losses, self.batch.shares(losses))
        gradients = {p: cut.grad for p, cut in self._cuts.items() if cut.grad is not None}
        if not gradients:
            raise AgreementError(UNREACHED.format(domains=f"domains {self.batch.labels}"))
        return gradients

    def _domain_by_domain(
        self, losses: Tensor, direct: Sequence[nn.Parameter], route: _Route
    ) -> dict[int, Tensor]:
        """The same, with a look at each domain's share, and the parameters in the losses."""
        totals: dict[int, Tensor] = {}
        mixed = False
        for label, rows, own in zip(
            self.batch.labels, self.batch.rows, self._order.units.rows, strict=True
        ):
            loss = losses[rows.to(losses.device)].mean()
            with route.gradients_of_unit(direct):
                torch.autograd.backward(loss, retain_graph=label != self.batch.labels[-1])
            if all(cut.grad is None for cut in self._cuts.values()):
                raise AgreementError(UNREACHED.format(domains=f"domain {label}"))
            for place, cut in self._cuts.items():
                gradient, cut.grad = cut.grad, None
                if gradient is None:
                    continue
                total = totals.setdefault(place, torch.zeros_like(gradient))
                total[own] = gradient[own]
                gradient[own] = 0
                # NaN is no sign of mixing: 0 · inf in another sample's row makes one.
                mixed |= bool((gradient.nan_to_num_(0.0, 0.0, 0.0) != 0).any())
        if mixed:
            raise AgreementError(MIXED_LOSSES)
        return totals


class _Route:
    """The units' gradients on their way from the graph, and from the losses, to the receiver."""

    def __init__(self, parameters: Sequence[nn.Parameter], receiver: Receiver) -> None:
        self._parameters = parameters
        self._receiver = receiver
        self._index = {id(parameter): index for index, parameter in enumerate(parameters)}
        self._direct: dict[int, list[Tensor | None]] = {}
        self._stashed: dict[int, Tensor] = {}
        self._updates: dict[int, Tensor] = {}
        self._others: list[tuple[Tensor, Tensor]] = []

    def receive(self, parameter: Tensor, gradients: UnitGradients) -> None:
        """Hand on the units' gradients of a parameter; later if the losses use it, too."""
        index = self._index.get(id(parameter))
        if index is None:
            self._others.append((parameter, gradients.stack().sum(0)))
        elif index in self._direct:
            self._stashed[index] = gradients.stack()
        else:
            self._receiver.receive(index, gradients)

    @property
    def in_graph(self) -> RuleInGraph | None:
        """The rule, unless gradients come from elsewhere, too."""
        return None if self._direct else self._receiver.in_graph

    def agreed(self, parameter: Tensor, update: Tensor) -> None:
        """What a compiled graph made of all units' gradients of a parameter."""
        self._updates[self._index[id(parameter)]] = update

    def among(self, leaves: Sequence[Tensor]) -> list[nn.Parameter]:
        """Those leaves that are parameters."""
        places = [self._index[id(leaf)] for leaf in leaves if id(leaf) in self._index]
        return [self._parameters[place] for place in places]

    def gradients_of_unit(self, parameters: Sequence[nn.Parameter]) -> _Aside:
        """Take what autograd writes to these parameters as the gradients of the next unit."""
        return _Aside(parameters, self._keep)

    def _keep(self, parameter: nn.Parameter, gradient: Tensor | None) -> None:
        self._direct.setdefault(self._index[id(parameter)], []).append(gradient)

    def finish(self) -> None:
        """Hand on what had to wait, and write what comes of it."""
        for index, parts in self._direct.items():
            stack = Given(self._parameters[index], parts).stack()
            if index in self._stashed:
                stack = stack + self._stashed.pop(index)
            self._receiver.receive(index, Stacked(stack))
        for index, update in {**self._updates, **self._receiver.finish()}.items():
            write(self._parameters[index], update)
        if self._others:
            tensors, gradients = zip(*self._others, strict=True)
            torch.autograd.backward(tensors, gradients)


class _Aside:
    """``.grad`` is empty for the block; what is written there is shown, what was is put back."""

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        keep: Callable[[nn.Parameter, Tensor | None], None],
    ) -> None:
        self._parameters, self._keep = parameters, keep

    def __enter__(self) -> None:
        self._before = [parameter.grad for parameter in self._parameters]
        for parameter in self._parameters:
            parameter.grad = None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for parameter, before in zip(self._parameters, self._before, strict=True):
            if kind is None:
                self._keep(parameter, parameter.grad)
            parameter.grad = before


def _behind(losses: Tensor) -> tuple[list[Tensor], Hashable]:
    """The leaves that losses depend on, and of what calls they are made.

    Raises:
        AgreementError: part of the losses is in a re-entrant checkpoint.
    """
    found, seen, names = [], set(), set()
    nodes = [losses.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        name = node.name()
        names.add(name)
        if "CheckpointFunction" in name:
            raise AgreementError(
                "the losses are computed in a re-entrant checkpoint, behind which parameters "
                "cannot be seen; use checkpoint(..., use_reentrant=False) there, or none."
            )
        if (variable := getattr(node, "variable", None)) is not None:
            found.append(variable)
        nodes += [following for following, _ in node.next_functions]
    return found, frozenset(names)


def _kind(inventory: Inventory, inputs: Any, options: Mapping[str, Any]) -> Hashable:
    """What tells models and batches apart for which no graph was found."""
    leaves, spec = tree_flatten((inputs, dict(options)))
    devices = {parameter.device.type for parameter in inventory.trained}
    return (
        str(spec),
        tuple(_described(leaf) for leaf in leaves),
        tuple((id(p), p.shape, p.dtype) for p in inventory.trained),
        tuple(module.training for module in inventory.modules),
        tuple(
            torch.get_autocast_dtype(device)
            for device in sorted(devices)
            if torch.is_autocast_enabled(device)
        ),
    )


def _described(leaf: Any) -> Hashable:
    if isinstance(leaf, Tensor):
        return leaf.ndim, leaf.dtype, leaf.device.type
    if leaf is None or isinstance(leaf, (bool, int, str)):
        return leaf
    return type(leaf).__name__
