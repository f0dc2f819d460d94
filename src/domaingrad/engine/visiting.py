"""The gradients of the units of one batch, shown to a visitor parameter by parameter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from warnings import warn
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .batch import Batch
from .errors import (
    MIXED_LOSSES,
    AgreementError,
    InconclusiveError,
    SinglePassWarning,
    UnsupportedModelError,
)
from .gradients import UnitGradients
from .inventory import Inventory
from .separate_passes import SeparatePasses

if TYPE_CHECKING:
    from .graph.engine import GraphEngine


class Visitor(Protocol):
    """Who is shown the gradients; ``.grad`` gets nothing."""

    in_graph: None

    def receive(self, index: int, gradients: UnitGradients) -> None:
        """All units' gradients of one parameter, once."""

    def add(self, index: int, unit: int, gradient: Tensor) -> None:
        """One unit's gradient of one parameter, where the units pass one by one."""

    def finish(self) -> dict[int, Tensor]:
        """At the end; return nothing."""


V = TypeVar("V", bound=Visitor)


def visit_units(
    model: nn.Module,
    inputs: Any,
    loss_fn: Callable[[Any], Tensor],
    options: Mapping[str, Any],
    units: Tensor,
    visitor: Callable[[int], V],
    of_samples: bool = True,
) -> V:
    """Show the gradients of each unit's mean loss, in one pass where that is exact.

    Args:
        model: the model.
        inputs: as the model takes them.
        loss_fn: from the model's outputs to the loss of each sample, [N].
        options: passed to the model as they are.
        units: integer tensor of shape [N], the unit of each sample.
        visitor: makes a visitor from the number of units.
        of_samples: whether batch norms in training mode look at the whole batch; else each unit has
            its own statistics, as in a pass of its own.

    Raises:
        ValueError: nothing to train, losses that are not one a sample.
    """
    inventory = Inventory(model)
    if not inventory.trained:
        raise ValueError("the model has no parameter that requires grad; found nothing to measure.")
    batch = Batch(units)
    batch.check(inputs, options)
    shown = visitor(len(batch.labels))
    try:
        _in_one_pass(inventory, batch, shown, inputs, loss_fn, options, of_samples)
    except UnsupportedModelError as error:
        shown = visitor(len(batch.labels))
        _unit_by_unit(error, inventory, batch, shown, inputs, loss_fn, options, of_samples)
        if not isinstance(error, InconclusiveError):
            warn(
                f"one pass for all samples is not exact for this model: {error}. They pass one by "
                f"one (or unit by unit) instead, which is right but slow.",
                SinglePassWarning,
                stacklevel=4,
            )
    return shown


_engines: dict[bool, WeakKeyDictionary[nn.Module, GraphEngine]] = {
    of_samples: WeakKeyDictionary() for of_samples in (False, True)
}
"""What is known of models that were seen before, by whether norms look at the whole batch."""


def _in_one_pass(
    inventory: Inventory,
    batch: Batch,
    visitor: Visitor,
    inputs: Any,
    loss_fn: Callable[[Any], Tensor],
    options: Mapping[str, Any],
    of_samples: bool,
) -> None:
    engines = _engines[of_samples]
    engine = engines.get(inventory.model)
    if engine is None:
        from .graph.engine import GraphEngine  # noqa: PLC0415, Dynamo takes a second to import

        engine = engines.setdefault(inventory.model, GraphEngine(of_samples=of_samples))
    with torch.enable_grad():
        passed, outputs = engine.forward(inventory.model, batch, inputs, options)
        values = loss_fn(outputs)
        check_losses(values, batch.size)
        passed.backward(values, visitor, inventory.trained)


def _unit_by_unit(
    error: UnsupportedModelError,
    inventory: Inventory,
    batch: Batch,
    visitor: Visitor,
    inputs: Any,
    loss_fn: Callable[[Any], Tensor],
    options: Mapping[str, Any],
    of_samples: bool,
) -> None:
    """The outputs pass through ``loss_fn`` together, since it knows the batch's targets."""
    if of_samples and inventory.training_batch_norms:
        raise ValueError(
            f"the samples must pass one by one or unit by unit ({error}), and batch norms in "
            f"training mode look at all of them; call eval() on the norms, or change what the "
            f"message names."
        ) from error
    passes = SeparatePasses(batch)
    with torch.enable_grad():
        values = loss_fn(passes.forward(inventory.model, inputs, options))
    check_losses(values, batch.size)
    before = [parameter.grad for parameter in inventory.trained]
    try:
        for unit in range(len(batch.labels)):
            for parameter in inventory.trained:
                parameter.grad = None
            if passes.backward(unit, values):
                raise AgreementError(MIXED_LOSSES)
            for index, parameter in enumerate(inventory.trained):
                if parameter.grad is not None:
                    visitor.add(index, unit, parameter.grad)
    finally:
        for parameter, gradient in zip(inventory.trained, before, strict=True):
            parameter.grad = gradient


def check_losses(losses: Tensor, size: int) -> None:
    """Refuse losses that are not one a sample.

    Raises:
        ValueError: another shape, or no tensor.
    """
    if not isinstance(losses, Tensor) or losses.shape != (size,):
        found = list(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise ValueError(
            f"loss_fn(outputs) must return one loss a sample, shape [{size}]; found {found}. "
            f"Compute them with reduction='none'."
        )
