"""The first step of a model: is the single pass exact, and where do the samples lie?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map_only

from ..batch import run
from .chance import WithoutChance
from .forward import MixedForward
from .gradients import UnitGradients
from .inventory import Inventory
from .plan import Plan
from .probe import plan_of
from .session import Session
from .units import Units

TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-3}
"""Largest relative distance between the two computations, by precision."""

OF_ONE_UNIT = 25
"""How much farther the gradient of one unit may be off, as long as all together are not: where
rounding moves an activation across the kink of a ReLU, a unit of few samples feels it."""

TOLERANCE_OF_HALF = 5e-2
TOLERANCE_OF_TF32 = 1e-2
SMALLEST = 1e-4
"""Gradients below this share of the model's are compared as if they had this share: where a
gradient is truly zero, rounding is all there is."""


SIZE_FOR_ZEROS = 0.1
"""Standard deviation of what stands in for parameters that are all zero."""


class UnfitError(Exception):
    """The single pass is not exact for this model; the message says where."""


class PerhapsUnfitError(UnfitError):
    """The two differ by little more than rounding, which float64 has less of."""


class InconclusiveError(UnfitError):
    """The batch does not show whether the single pass is exact; another may."""


@contextmanager
def preserved(inventory: Inventory) -> Iterator[None]:
    """Leave buffers and ``.grad`` as they were, whatever is done to them."""
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in inventory.modules
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    gradients = [parameter.grad for parameter in inventory.trained]
    for parameter in inventory.trained:
        parameter.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer, value in buffers:
                module._buffers[name] = buffer
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
        for parameter, gradient in zip(inventory.trained, gradients, strict=True):
            parameter.grad = gradient


@contextmanager
def without_zeros(inventory: Inventory) -> Iterator[None]:
    """Random numbers for the block in parameters that are all zero.

    Behind a layer that starts at zero (a residual branch, a head), all would look alike.
    """
    silent = [p for p in inventory.trained if p.numel() > 0 and not p.detach().any()]
    before = [parameter.data for parameter in silent]
    # The data are exchanged, not overwritten: an open graph may hold the parameter.
    for index, parameter in enumerate(silent):
        parameter.data = (_drawn(index, parameter.shape) * SIZE_FOR_ZEROS).to(before[index])
    try:
        yield
    finally:
        for parameter, data in zip(silent, before, strict=True):
            parameter.data = data


def examine(
    inventory: Inventory,
    units: Units,
    inputs: Any,
    options: Mapping[str, Any],
) -> Plan:
    """Find the plan of a model, and compare the single pass with one pass a unit.

    The outputs must be the same, and so must the gradients of Σ_s ⟨r_s, output_s⟩ for a random r,
    unit by unit; where they differ by so little that a ReLU at its kink could be the reason, a copy
    in float64 decides. Nothing of the model changes, and no random number is drawn.

    Args:
        inventory: what the model is made of.
        units: the units of the batch.
        inputs: the batch, unit after unit.
        options: passed to the model as they are.

    Raises:
        UnfitError: the two differ, or the single pass cannot be made.
    """
    examination = Examination(inventory, units, inputs, options)

    def check() -> Plan:
        plan = examination.plan()
        examination.decide(plan)
        examination.compare_buffers(plan)
        return plan

    return _guarded(inventory, check)


SAMPLES = 4
"""Samples that are compared one by one where the units are samples."""


def examine_samples(
    inventory: Inventory, units: Units, inputs: Any, options: Mapping[str, Any]
) -> Plan:
    """As :func:`examine`, with a few samples as units and batch norms in evaluation mode."""
    count = min(SAMPLES, units.samples)
    whole = Examination(inventory, units, inputs, options)
    few = Examination(inventory, Units((1,) * count), _rows(inputs, 0, count), options)

    def check() -> Plan:
        plan = whole.plan()
        with _evaluating(inventory.training_batch_norms):
            few.decide(plan)
        return plan

    return _guarded(inventory, check)


@contextmanager
def _evaluating(norms: Sequence[nn.Module]) -> Iterator[None]:
    for norm in norms:
        norm.train(False)
    try:
        yield
    finally:
        for norm in norms:
            norm.train(True)


def _guarded(inventory: Inventory, check: Callable[[], Plan]) -> Plan:
    """Make a check without chance and without zeros; whatever fails in it makes a model unfit."""
    with without_zeros(inventory), WithoutChance(), torch.enable_grad():  # type: ignore[no-untyped-call]
        try:
            return check()
        except (UnfitError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            reason = str(error).strip().splitlines() or [""]
            raise UnfitError(f"{type(error).__name__}: {reason[0]}") from error


@dataclass
class Examination:
    """The two computations, and their comparison."""

    inventory: Inventory
    units: Units
    inputs: Any
    options: Mapping[str, Any]
    _rest: Any = None

    @property
    def model(self) -> nn.Module:
        """The model."""
        return self.inventory.model

    @property
    def parameters(self) -> Sequence[nn.Parameter]:
        """What is trained."""
        return self.inventory.trained

    def plan(self) -> Plan:
        """Where the samples lie."""
        with preserved(self.inventory):
            return plan_of(self.inventory, self._first, self.units.samples)

    def decide(self, plan: Plan) -> None:
        """Compare; on a copy in float64, too, where the kink of a ReLU may be all there is to it.

        Raises:
            UnfitError: the two computations differ.
        """
        try:
            self.compare(plan)
        except PerhapsUnfitError as found:
            try:
                precise = self._in_float64()
                precise.compare(precise.plan())
            except Exception as error:
                raise found from error

    def _in_float64(self) -> Examination:
        model = deepcopy(self.model).double()
        inputs, options = tree_map_only(
            Tensor,
            lambda tensor: tensor.double() if tensor.is_floating_point() else tensor,
            (self.inputs, dict(self.options)),
        )
        return Examination(Inventory(model), self.units, inputs, options)

    def compare(self, plan: Plan) -> None:
        """Outputs and gradients of the single pass against those of separate passes."""
        if not _samples_differ(self.inputs):
            raise InconclusiveError("all samples of the batch are the same, which shows nothing")
        single, outputs = self._single(plan)
        starts = [sum(self.units.sizes[:unit]) for unit in range(self.units.count)]
        largest = 0.0
        distances: list[list[float]] = [[] for _ in self.parameters]
        for unit, (start, size) in enumerate(zip(starts, self.units.sizes, strict=True)):
            gradients, own = self._separate(start, size)
            self._compare_outputs([output[start : start + size] for output in outputs], own, plan)
            own_single = [None if rows is None else rows[unit] for rows in single]
            typical, farther = self._compare_gradients(own_single, gradients)
            largest = max(largest, typical)
            for index, distance in farther.items():
                distances[index].append(distance)
        if not largest > 0.0:
            raise InconclusiveError("all gradients are zero or not finite, which shows nothing")
        for index, found in enumerate(distances):
            if not _root_mean_square(found) <= self._tolerance:
                raise PerhapsUnfitError(self._unlike(index))

    def compare_buffers(self, plan: Plan) -> None:
        """One pass must leave the buffers as separate passes in order do."""
        session = Session(self.units, self.parameters)
        with preserved(self.inventory):
            with MixedForward(self.inventory, session, plan):
                run(self.model, self.inputs, self.options)
            single = self._buffers()
        with preserved(self.inventory):
            start = 0
            for size in self.units.sizes:
                run(self.model, _rows(self.inputs, start, size), self.options)
                start += size
            separate = self._buffers()
        for (module, name, one), (_, _, other) in zip(single, separate, strict=True):
            if one.shape != other.shape or _far(one, other, _size(other), self._tolerance):
                raise UnfitError(
                    f"buffer {name!r} of {self.inventory.name_of(module)} does not become what "
                    f"separate passes make of it"
                )

    def _buffers(self) -> list[tuple[nn.Module, str, Tensor]]:
        """All but the vectors of spectral norms, which move once a pass."""
        return [
            (module, name, buffer.detach().clone())
            for module in self.inventory.modules
            if not isinstance(module, nn.utils.parametrizations._SpectralNorm)
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]

    def _first(self, count: int) -> Any:
        return run(self.model, _rows(self.inputs, 0, count), self.options)

    def _single(self, plan: Plan) -> tuple[list[list[Tensor] | None], list[Tensor]]:
        sketches = Sketches(self.parameters)
        session = Session(self.units, self.parameters)
        mode = MixedForward(self.inventory, session, plan)
        with preserved(self.inventory):
            with mode:
                outputs = self._outputs(
                    run(self.model, self.inputs, self.options), self.units.samples
                )
            weights = torch.cat([torch.full((n,), 1.0 / n) for n in self.units.sizes])
            starts = [output for output in outputs if output.requires_grad]
            directions = self._directions(starts, 0, weights)
            with session.on_the_way_back(sketches), mode:
                torch.autograd.backward(starts, directions)
            plan.comes_back = mode.comes_back
            plan.ways |= mode.ways
            leaked = [index for index, p in enumerate(self.parameters) if p.grad is not None]
        if leaked:
            raise UnfitError(
                f"parameter {self._name(leaked[0])} is used where it cannot be seen (in an "
                f"autograd.Function of the model's own, or in a gradient taken inside the model)"
            )
        found = [sketches.found.get(index) for index in range(len(self.parameters))]
        return found, [output.detach() for output in outputs]

    def _separate(self, start: int, size: int) -> tuple[list[Tensor | None], list[Tensor]]:
        with preserved(self.inventory):
            inputs = _rows(self.inputs, start, size)
            outputs = self._outputs(run(self.model, inputs, self.options), size)
            starts = [output for output in outputs if output.requires_grad]
            weights = torch.full((size,), 1.0 / size)
            torch.autograd.backward(starts, self._directions(starts, start, weights))
            gradients = [
                None if p.grad is None else sketch(index, p.grad)
                for index, p in enumerate(self.parameters)
            ]
        return gradients, [output.detach() for output in outputs]

    def _outputs(self, tree: Any, size: int) -> list[Tensor]:
        leaves, spec = tree_flatten(tree)
        rest = (spec, [leaf for leaf in leaves if not isinstance(leaf, Tensor)])
        if self._rest is not None and rest != self._rest:
            raise UnfitError("what the model returns beside tensors changes with the batch")
        self._rest = rest
        if not all(leaf is None or isinstance(leaf, (bool, int, float, str)) for leaf in rest[1]):
            raise UnfitError("the model returns objects that are no tensors")
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        for leaf in tensors:
            if leaf.ndim == 0 or len(leaf) != size:
                raise UnfitError(f"an output has shape {list(leaf.shape)} for {size} samples")
        return tensors

    def _directions(self, outputs: Sequence[Tensor], start: int, weights: Tensor) -> list[Tensor]:
        """Random directions to go back from, the same for a sample in both computations."""
        if not outputs:
            raise UnfitError("no output depends on a parameter")
        directions = []
        for index, output in enumerate(outputs):
            shape = (self.units.samples, *output.shape[1:])
            own = _drawn(index, shape)[start : start + len(output)]
            weighted = own * weights.view(-1, *(1,) * (own.ndim - 1))
            directions.append(weighted.to(output))
        return directions

    def _compare_outputs(
        self, single: Sequence[Tensor], separate: Sequence[Tensor], plan: Plan
    ) -> None:
        for one, other in zip(single, separate, strict=True):
            if one.shape != other.shape or _far(one, other, _size(other), self._tolerance):
                raise UnfitError(f"{self._first_mixing(plan)} mixes samples of different domains")

    def _compare_gradients(
        self, single: Sequence[Tensor | None], separate: Sequence[Tensor | None]
    ) -> tuple[float, dict[int, float]]:
        """Refuse gradients that are far apart; the largest one's size, and how far each is off."""
        sizes = [
            float(s[-1]) / parameter.numel() ** 0.5
            for s, parameter in zip(separate, self.parameters, strict=True)
            if s is not None and parameter.numel() > 0
        ]
        typical = max((size for size in sizes if math.isfinite(size)), default=0.0)
        distances = {}
        for index, (one, other) in enumerate(zip(single, separate, strict=True)):
            if one is None and other is None:
                continue
            one = _zeros_for(other) if one is None else one  # noqa: PLW2901
            other = _zeros_for(one) if other is None else other  # noqa: PLW2901
            floor = SMALLEST * typical * self.parameters[index].numel() ** 0.5
            distance = _distance(one, other, max(_size(other[-1:]), floor))
            if not distance <= self._tolerance_of_a_unit:
                raise UnfitError(self._unlike(index))
            distances[index] = distance
        return typical, distances

    def _unlike(self, index: int) -> str:
        return f"the gradient of {self._name(index)} is not that of separate passes"

    @property
    def _tolerance(self) -> float:
        device = self.parameters[0].device.type
        if torch.is_autocast_enabled(device):
            return TOLERANCE_OF_HALF
        tolerance = max(TOLERANCE.get(p.dtype, TOLERANCE_OF_HALF) for p in self.parameters)
        if device == "cuda" and tolerance == TOLERANCE[torch.float32]:
            return TOLERANCE_OF_TF32
        return tolerance

    @property
    def _tolerance_of_a_unit(self) -> float:
        return max(self._tolerance, min(OF_ONE_UNIT * self._tolerance, TOLERANCE_OF_HALF))

    def _name(self, index: int) -> str:
        wanted = self.parameters[index]
        return next(
            repr(name) for name, parameter in self.model.named_parameters() if parameter is wanted
        )

    def _first_mixing(self, plan: Plan) -> str:
        """The first module whose output for the first unit changes with the rest of the batch."""
        session = Session(self.units, self.parameters)
        size = self.units.sizes[0]
        with MixedForward(self.inventory, session, plan):
            whole = self._module_outputs(self.inputs)
        alone = self._module_outputs(_rows(self.inputs, 0, size))
        for (name, many), (_, few) in zip(whole, alone, strict=False):
            if many.shape[1:] != few.shape[1:] or len(many) * size != len(few) * self.units.samples:
                continue
            if _far(many[: len(few)], few, _size(few), self._tolerance):
                return name
        return "the model"

    def _module_outputs(self, inputs: Any) -> list[tuple[str, Tensor]]:
        own = set(self.inventory.modules)
        outputs: list[tuple[str, Tensor]] = []

        def keep(module: nn.Module, _: Any, output: Any) -> None:
            if module in own and isinstance(output, Tensor) and output.ndim > 0:
                outputs.append((self.inventory.name_of(module), output.detach().clone()))

        hook = nn.modules.module.register_module_forward_hook(keep)
        try:
            with preserved(self.inventory):
                run(self.model, inputs, self.options)
        finally:
            hook.remove()
        return outputs


class Sketches:
    """Keeps, of each unit's gradient of each parameter, two random products and the norm."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.found: dict[int, list[Tensor]] = {}
        self._parameters = parameters

    def receive(self, index: int, gradients: UnitGradients) -> Tensor | None:
        """Reduce the gradients to a few numbers each."""
        self.found[index] = [sketch(index, gradient) for gradient in gradients.stack().unbind(0)]
        return None

    def finish(self) -> dict[int, Tensor]:
        """Nothing waits."""
        return {}


def sketch(index: int, gradient: Tensor) -> Tensor:
    """Two products with random vectors, and the norm: [3] in float64 on the CPU.

    Two gradients at a distance d differ in a product by d · N(0, 1).
    """
    flat = gradient.detach().flatten()
    if flat.dtype not in (torch.float32, torch.float64):
        flat = flat.float()
    directions = _drawn(index, (2, flat.numel())).to(flat)
    return torch.cat([directions @ flat, flat.norm().reshape(1)]).double().cpu()


def _drawn(seed: int, shape: Sequence[int]) -> Tensor:
    """Normal random numbers that :class:`WithoutChance` does not see."""
    return torch.from_numpy(numpy.random.default_rng(seed).standard_normal(tuple(shape)))


def _far(one: Tensor, other: Tensor, scale: float, tolerance: float) -> bool:
    """Whether two computations differ by more than rounding, where either is finite."""
    return not _distance(one, other, scale) <= tolerance


def _distance(one: Tensor, other: Tensor, scale: float) -> float:
    """The largest difference over the scale, where either is finite; NaN where only one is."""
    finite = one.isfinite() | other.isfinite()
    difference = (one.double() - other.double()).abs()[finite]
    largest = float(difference.max()) if difference.numel() > 0 else 0.0
    return largest / scale if scale > 0 else (0.0 if largest == 0 else math.inf)


def _root_mean_square(numbers: Sequence[float]) -> float:
    return math.sqrt(sum(number**2 for number in numbers) / max(1, len(numbers)))


def _size(tensor: Tensor) -> float:
    """The largest finite component."""
    finite = tensor.detach()[tensor.isfinite()]
    return float(finite.double().abs().max()) if finite.numel() > 0 else 0.0


def _zeros_for(other: Tensor | None) -> Tensor:
    assert other is not None
    return torch.zeros_like(other)


def _samples_differ(inputs: Any) -> bool:
    """Whether any input has two finite rows that are not the same."""
    return any(
        isinstance(leaf, Tensor)
        and len(leaf) > 1
        and bool((leaf[1:] != leaf[:1]).logical_and(leaf[1:].isfinite()).any())
        for leaf in tree_flatten(inputs)[0]
    )


def _rows(inputs: Any, start: int, count: int) -> Any:
    return tree_map_only(Tensor, lambda tensor: tensor[start : start + count], inputs)
