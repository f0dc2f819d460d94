"""One forward and one backward for all units of a batch, by way of a captured graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed, TorchDynamoException
from torch.fx.experimental import _config as symbols
from torch.utils._pytree import tree_flatten, tree_map_only

from ..batch import Batch, run, select
from ..errors import (
    FOREIGN_BACKWARD,
    MIXED_LOSSES,
    UNREACHED,
    AgreementError,
    InconclusiveError,
    UnsupportedModelError,
)
from ..gradients import Given, Stacked, UnitGradients
from ..inventory import Inventory, preserved
from ..receivers import ElementwiseAgreement
from ..units import Units
from .capture import CapturedGraph, NewGraph, Pass, RuleInGraph, captured, of_any_size
from .operators import UnprovableError
from .verification import verify

FEWEST_OF_ONE_UNIT = 4
"""Samples of a batch of one unit that can be compared as two."""

MOST_GRAPHS = 3
"""Graphs that are looked at in one step, for a model that is another one each time."""


class Receiver(Protocol):
    """What is done with the units' gradients of each parameter."""

    def receive(self, index: int, gradients: UnitGradients) -> Tensor | None:
        """Take the gradients of one parameter; what is returned becomes its ``.grad``."""

    def finish(self) -> dict[int, Tensor]:
        """At the end of the pass: gradients that could not be returned at once, by index."""


class GraphEngine:
    """Captures a model's graphs, proves them, compares their first step, and passes batches.

    Args:
        of_samples: the units are the samples, and batch norms in training mode look at the whole
            batch.
        compiler: options of Inductor, through which the graphs are sent; ``None`` runs them as
            they are.
    """

    def __init__(self, of_samples: bool = False, compiler: Mapping[str, Any] | None = None) -> None:
        self._of_samples = of_samples
        self._current = Pass()
        compile_graph = None
        if compiler is not None:
            from .inductor import InductorGraphs  # noqa: PLC0415, a second to import

            compile_graph = partial(InductorGraphs, compiler)
        self._call = captured(self._current, compile_graph)
        self._unsupported: dict[Hashable, str] = {}

    @property
    def ways(self) -> Mapping[str, str]:
        """By the name of a parameter, the operator that its gradients came from."""
        return {} if self._current.graph is None else self._current.graph.ways

    def forward(
        self,
        inventory: Inventory,
        batch: Batch,
        inputs: Any,
        options: Mapping[str, Any],
        expected: Callable[[], RuleInGraph | None] = lambda: None,
    ) -> tuple[MixedPass, Any]:
        """Pass a batch through the model.

        Args:
            inventory: the model's parameters and modules.
            batch: which sample belongs to which unit.
            inputs: as the model takes them.
            options: passed to the model as they are.
            expected: the rule that the walk back is most likely to apply, where a compiler may.

        Raises:
            UnsupportedModelError: no graph of the model can be proven to tell the units apart.
        """
        kind = _kind(inventory, inputs, options) if self._unsupported else None
        if kind in self._unsupported:
            raise UnsupportedModelError(self._unsupported[kind])
        if batch.size < 2:
            raise InconclusiveError("a batch of one sample shows no layout")
        units = Units(batch.sizes, self._of_samples)
        self._current.expected = expected
        in_order = inputs if batch.is_in_order else select(inputs, batch.order)
        try:
            tree = self._passed(inventory, units, in_order, options)
        except InconclusiveError:
            raise
        except UnsupportedModelError as error:
            self._unsupported[_kind(inventory, inputs, options)] = str(error)
            raise
        graph = self._current.graph
        assert graph is not None
        passed = MixedPass(batch, inventory.trained, self._current, graph, graph.arguments)
        try:
            return passed, tree_map_only(Tensor, passed.output, tree)
        finally:
            graph.forget()

    def _passed(
        self, inventory: Inventory, units: Units, inputs: Any, options: Mapping[str, Any]
    ) -> Any:
        inputs = tree_map_only(Tensor, of_any_size, inputs)
        for _ in range(MOST_GRAPHS):
            self._current.units = units
            try:
                return self._captured(inventory, inputs, options)
            except NewGraph as new:
                graph = new.graph
            self._current.units = _apart(units)
            verify(
                inventory,
                self._current.units,
                inputs,
                options,
                self._current,
                graph,
                lambda: self._captured(inventory, inputs, options),
            )
            graph.checked.add(units.any_single)
        raise InconclusiveError("the model is another graph each time")

    def _captured(
        self, inventory: Inventory, inputs: Any, options: Mapping[str, Any], again: bool = False
    ) -> Any:
        try:
            # Sizes that are the same by chance are not taken for one.
            with symbols.patch(use_duck_shape=False):  # type: ignore[attr-defined]
                if inventory.recurrent:
                    with torch._dynamo.config.patch(allow_rnn=True):
                        return self._call(inventory.model, inputs, options)
                return self._call(inventory.model, inputs, options)
        except BackendCompilerFailed as error:
            inner = error.inner_exception
            if isinstance(inner, (MemoryError, torch.OutOfMemoryError)):
                raise inner from error
            if isinstance(inner, UnprovableError):
                raise UnsupportedModelError(str(inner)) from None
            raise UnsupportedModelError(f"its graph cannot be built: {_first(inner)}") from error
        except TorchDynamoException as error:
            if not again:
                # What a model does in its first pass only is over; warnings that Dynamo meets are
                # the model's, where they are errors, say, in tests.
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    _prepare(inventory, inputs, options)
                    return self._captured(inventory, inputs, options, again=True)
            raise UnsupportedModelError(f"it cannot be captured whole: {_first(error)}") from error


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

    The graph is cut at the outputs: the losses reach back to the cut, and from there the model is
    walked once.

    Args:
        batch: which samples belong to which domain.
        parameters: what is trained.
        current: what the captured graph asks while it runs.
        graph: the graph.
        arguments: that it had.
    """

    def __init__(
        self,
        batch: Batch,
        parameters: Sequence[nn.Parameter],
        current: Pass,
        graph: CapturedGraph,
        arguments: Sequence[Any],
    ) -> None:
        self.batch = batch
        self.parameters = parameters
        self._units = current.units
        self._current = current
        self._graph = graph
        self._arguments = arguments
        self._walking = False
        self._outputs: list[Tensor] = []
        self._cuts: list[Tensor] = []

    @property
    def has_graph(self) -> bool:
        """Whether anything can be walked backward."""
        return bool(self._cuts)

    def output(self, tensor: Tensor) -> Tensor:
        """An output of the model, cut off, in the order of the batch."""
        if tensor.ndim == 0 or len(tensor) != self.batch.size:
            raise UnsupportedModelError(f"an output has shape {list(tensor.shape)}")
        cut = tensor.detach()
        if tensor.requires_grad:
            if self._graph.holds_samples(tensor) is None:
                raise UnsupportedModelError(
                    f"an output of shape {list(tensor.shape)} does not hold the samples"
                )
            cut.requires_grad_().register_hook(self._require_own_walk)  # type: ignore[no-untyped-call]
            self._outputs.append(tensor)
            self._cuts.append(cut)
        return cut if self.batch.is_in_order else cut[self.batch.back.to(cut.device)]

    def backward(self, losses: Tensor, receiver: Receiver) -> None:
        """Walk back from the sum over domains of their mean losses.

        Args:
            losses: one a sample.
            receiver: what is done with the gradients.

        Raises:
            AgreementError: the losses mix domains or do not depend on the outputs.
        """
        route = _Route(self.parameters, receiver)
        self._walking = True
        try:
            direct, kind = route.behind(losses)
            if direct or kind not in self._graph.losses:
                gradients = self._domain_by_domain(losses, direct, route)
                self._graph.losses.add(kind)
            else:
                gradients = self._at_once(losses)
        finally:
            self._walking = False
        outputs, self._outputs, self._cuts = self._outputs, [], []
        pairs = [(o, g) for o, g in zip(outputs, gradients, strict=True) if g is not None]
        arguments, self._arguments = self._arguments, ()
        with self._current.walking(self._units, arguments, route):
            torch.autograd.backward([o for o, _ in pairs], [g for _, g in pairs])
        route.finish()

    def _require_own_walk(self, gradient: Tensor) -> None:
        if not self._walking:
            raise AgreementError(FOREIGN_BACKWARD)

    def _at_once(self, losses: Tensor) -> list[Tensor | None]:
        torch.autograd.backward(losses, self.batch.shares.to(losses))
        gradients = [cut.grad for cut in self._cuts]
        if all(gradient is None for gradient in gradients):
            raise AgreementError(UNREACHED.format(domains=f"domains {self.batch.labels}"))
        return gradients

    def _domain_by_domain(
        self, losses: Tensor, direct: Sequence[nn.Parameter], route: _Route
    ) -> list[Tensor | None]:
        """The same, with a look at each domain's share, and the parameters in the losses."""
        totals: list[Tensor | None] = [None] * len(self._cuts)
        mixed, start = False, 0
        for label, rows in zip(self.batch.labels, self.batch.rows, strict=True):
            loss = losses[rows.to(losses.device)].mean()
            with route.gradients_of_unit(direct):
                torch.autograd.backward(loss, retain_graph=label != self.batch.labels[-1])
            own = slice(start, start + len(rows))
            start += len(rows)
            if all(cut.grad is None for cut in self._cuts):
                raise AgreementError(UNREACHED.format(domains=f"domain {label}"))
            for index, cut in enumerate(self._cuts):
                gradient, cut.grad = cut.grad, None
                if gradient is None:
                    continue
                total = totals[index]
                if total is None:
                    totals[index] = total = torch.zeros_like(gradient)
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

    def receive(self, parameter: Tensor, gradients: UnitGradients) -> Tensor | None:
        """Hand on the units' gradients of a parameter; later if the losses use it, too."""
        index = self._index.get(id(parameter))
        if index is None:
            return gradients.stack().sum(0)
        if index in self._direct:
            self._stashed[index] = gradients.stack()
        elif (update := self._receiver.receive(index, gradients)) is not None:
            self._updates[index] = update
        return None

    @property
    def in_graph(self) -> RuleInGraph | None:
        """The rule, unless gradients come from elsewhere, too."""
        if self._direct or not isinstance(self._receiver, ElementwiseAgreement):
            return None
        return self._receiver.in_graph

    def agreed(self, parameter: Tensor, update: Tensor) -> None:
        """What a compiled graph made of all units' gradients of a parameter."""
        self._updates[self._index[id(parameter)]] = update

    def behind(self, losses: Tensor) -> tuple[list[nn.Parameter], Hashable]:
        """The parameters that losses use directly (a penalty), and of what calls they are made.

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
            names.add(node.name())
            if "CheckpointFunction" in node.name():
                raise AgreementError(
                    "the losses are computed in a re-entrant checkpoint, behind which parameters "
                    "cannot be seen; use checkpoint(..., use_reentrant=False) there, or none."
                )
            variable = getattr(node, "variable", None)
            if variable is not None and (index := self._index.get(id(variable))) is not None:
                found.append(self._parameters[index])
            nodes += [following for following, _ in node.next_functions]
        return found, frozenset(names)

    def gradients_of_unit(self, parameters: Sequence[nn.Parameter]) -> _Aside:
        """Take what autograd writes to these parameters as the gradients of the next unit."""
        return _Aside(parameters, self._keep)

    def _keep(self, parameter: nn.Parameter, gradient: Tensor | None) -> None:
        self._direct.setdefault(self._index[id(parameter)], []).append(gradient)

    def finish(self) -> None:
        """Hand on what had to wait, and let autograd write what comes of it."""
        updates: dict[int, Tensor | None] = dict(self._updates)
        for index, parts in self._direct.items():
            stack = Given(self._parameters[index], parts).stack()
            if index in self._stashed:
                stack = stack + self._stashed.pop(index)
            updates[index] = self._receiver.receive(index, Stacked(stack))
        updates |= self._receiver.finish()
        late = [
            (parameter, update.to(parameter.dtype))
            for index, update in updates.items()
            if (parameter := self._parameters[index]).requires_grad and update is not None
        ]
        if late:
            torch.autograd.backward([p for p, _ in late], [update for _, update in late])


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
