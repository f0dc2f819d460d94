"""One forward and one backward for all units of a batch, by way of a captured graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed, TorchDynamoException
from torch.utils._pytree import tree_flatten, tree_map_only

from ..batch import Batch, Order, run
from ..errors import (
    AuditError,
    InconclusiveError,
    UnseenModelError,
    UnsupportedModelError,
    is_out_of_memory,
)
from ..inventory import Inventory, preserved
from ..units import Units
from .capture import (
    Capture,
    NewGraph,
    NotCaptured,
    Pass,
    RuleInGraph,
    of_any_size,
)
from .mixed_pass import MixedPass
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
            if is_out_of_memory(inner):
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
