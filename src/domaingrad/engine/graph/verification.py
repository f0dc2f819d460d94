"""The first step through a graph, compared with one pass a unit."""

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
from ..errors import DifferenceError, InconclusiveError, UnsupportedModelError, is_out_of_memory
from ..gradients import UnitGradients
from ..inventory import Inventory, preserved
from ..units import Units
from .capture import Capture, CapturedGraph, Pass, of_any_size
from .chance import WithoutChance

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

SAMPLES = 4
"""Samples that are compared one by one where the units are samples."""


@contextmanager
def without_zeros(inventory: Inventory) -> Iterator[None]:
    """Random numbers for the block in parameters that are all zero.

    Behind a layer that starts at zero (a residual branch, a head), all would look alike.
    """
    silent = [p for p in inventory.trained if p.numel() > 0 and not p.detach().any()]
    before = [parameter.data for parameter in silent]
    # The data are exchanged, not overwritten: an open graph may hold the parameter.
    for index, parameter in enumerate(silent):
        parameter.data = (_normal(index, parameter.shape) * SIZE_FOR_ZEROS).to(before[index])
    try:
        yield
    finally:
        for parameter, data in zip(silent, before, strict=True):
            parameter.data = data


def verify(
    inventory: Inventory,
    units: Units,
    inputs: Any,
    options: Mapping[str, Any],
    current: Pass,
    graph: CapturedGraph,
    first: Callable[[], Any],
) -> None:
    """Compare one step through a graph with one pass a unit.

    The outputs must be the same, and so must the gradients of Σ_s ⟨r_s, output_s⟩ for a random r,
    unit by unit, and what becomes of the buffers. Where gradients differ, a copy in float64
    decides: a ReLU at its kink, or a norm over few numbers in a deep model, makes much of rounding.
    Nothing of the model changes, and no random number is drawn.

    Args:
        inventory: what the model is made of.
        units: the units of the batch.
        inputs: the batch, unit after unit.
        options: passed to the model as they are.
        current: what the graph asks while it runs.
        graph: the graph.
        first: makes the first pass.

    Raises:
        UnsupportedModelError: the two differ.
    """
    check = Comparison(inventory, units, inputs, options, current, graph)
    try:
        check.compare(first)
    except DifferenceError as found:
        try:
            check.in_float64()
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise found from error


@dataclass
class Comparison:
    """The two computations side by side."""

    inventory: Inventory
    units: Units
    inputs: Any
    options: Mapping[str, Any]
    current: Pass
    graph: CapturedGraph
    _around: Any = None

    @property
    def parameters(self) -> Sequence[nn.Parameter]:
        """What is trained."""
        return self.inventory.trained

    def compare(self, first: Callable[[], Any]) -> None:
        """Compare outputs, gradients and buffers."""
        if not _samples_differ(self.inputs):
            raise InconclusiveError("all samples of the batch are the same, which shows nothing")
        self.current.verifying = True
        try:
            with without_zeros(self.inventory), torch.enable_grad():
                places, self._around = self._places(first)
                with WithoutChance():  # type: ignore[no-untyped-call]
                    self._compare(places)
        finally:
            self.current.verifying = False
            self.graph.forget()

    def in_float64(self) -> None:
        """The same on a copy of the model in float64."""
        model = deepcopy(self.inventory.model).double()
        inputs, options = tree_map_only(
            Tensor,
            lambda tensor: tensor.double() if tensor.is_floating_point() else tensor,
            (self.inputs, dict(self.options)),
        )
        inputs = tree_map_only(Tensor, of_any_size, inputs)
        current = Pass()
        current.units, current.verifying = self.units, True
        capture, inventory = Capture(current), Inventory(model)
        with preserved(inventory):
            capture.anew(model, inputs, options, inventory.recurrent)
        assert current.graph is not None
        precise = Comparison(inventory, self.units, inputs, options, current, current.graph)
        precise.compare(lambda: capture.known(model, inputs, options))

    def _places(self, first: Callable[[], Any]) -> tuple[list[int | None], Any]:
        """Which output of the graph each tensor that the model returns is, and what is around."""
        devices = {p.device for p in self.parameters if p.device.type == "cuda"}
        with preserved(self.inventory), torch.random.fork_rng(devices=devices):
            tree = first()
            leaves, around = _parted(tree)
            found = self.graph.found
            places = [self.graph.place_of(leaf) for leaf in leaves]
            return [place if place in found.of_samples else None for place in places], around

    def _compare(self, places: Sequence[int | None]) -> None:
        single, outputs, buffers = self._single(places)
        count = self.units.count
        ranges = self.units.rows
        if self._together:
            # A sample alone has no such gradient, but the mean of all must be that of the batch.
            ranges = [slice(None)]
        elif self.units.pooled:
            ranges = ranges[:SAMPLES]
        largest = 0.0
        distances: list[list[float]] = [[] for _ in self.parameters]
        with preserved(self.inventory):
            before = [buffer.detach().clone() for buffer in self.inventory.buffers]
            for unit, own_rows in enumerate(ranges):
                gradients, own = self._separate(own_rows, places, before)
                self._compare_outputs([output[own_rows] for output in outputs], own)
                rows = [None if s is None else s[unit] for s in single]
                typical, farther = self._compare_gradients(rows, gradients)
                largest = max(largest, typical)
                for index, distance in farther.items():
                    distances[index].append(distance)
            if not self.units.pooled and len(ranges) == count:
                self._compare_statistics(buffers)
        if not largest > 0.0:
            raise InconclusiveError("all gradients are zero or not finite, which shows nothing")
        for index, found in enumerate(distances):
            if not _root_mean_square(found) <= self._tolerance:
                raise DifferenceError(self._unlike(index))

    @property
    def _together(self) -> bool:
        """Whether the units' gradients have a meaning together only."""
        return self.units.pooled and bool(self.inventory.training_batch_norms)

    def _single(
        self, places: Sequence[int | None]
    ) -> tuple[list[Tensor | None], list[Tensor], list[Tensor]]:
        """Sketches of the units' gradients, the outputs, and the buffers after the pass."""
        sketches = Sketches(self.parameters, self._together)
        program, graph = self.graph.program, self.graph
        assert graph.passed is not None
        with preserved(self.inventory):
            passed = program.forward(graph.passed[1].arguments)
            buffers = [buffer.detach().clone() for buffer in self._statistics()]
            starts = [p for p in places if p is not None and p in graph.found.differentiable]
            outputs = [passed.outputs[place] for place in places if place is not None]
            shares = torch.empty(self.units.samples)
            for own, size in zip(self.units.rows, self.units.sizes, strict=True):
                shares[own] = 1.0 / size
            directions = self._directions([passed.outputs[p] for p in starts], slice(None), shares)
            by_place: dict[int, Tensor] = {}
            for place, direction in zip(starts, directions, strict=True):
                before = by_place.get(place)
                by_place[place] = direction if before is None else before + direction
            with self.current.walking(self.units, passed.arguments, sketches):
                program.backward(passed, [by_place.get(p) for p in graph.found.differentiable])
        found = [sketches.found.get(id(parameter)) for parameter in self.parameters]
        return found, outputs, buffers

    def _separate(
        self, rows: slice, places: Sequence[int | None], before: Sequence[Tensor]
    ) -> tuple[list[Tensor | None], list[Tensor]]:
        """Sketches of one unit's gradients, and its outputs; norms' statistics have moved on."""
        inputs = _rows(self.inputs, rows)
        size = len(range(self.units.samples)[rows])
        for parameter in self.parameters:
            parameter.grad = None
        tensors, around = _parted(run(self.inventory.model, inputs, self.options))
        if around != self._around:
            raise UnsupportedModelError("what the model returns changes with the batch")
        outputs = [t for t, place in zip(tensors, places, strict=True) if place is not None]
        for output in outputs:
            if output.ndim == 0 or len(output) != size:
                shape = list(output.shape)
                raise UnsupportedModelError(f"an output has shape {shape} for {size} samples")
        starts = [output for output in outputs if output.requires_grad]
        weights = torch.full((size,), 1.0 / size)
        moved = [(buffer, buffer.detach().clone()) for buffer in self._statistics()]
        torch.autograd.backward(starts, self._directions(starts, rows, weights))
        with torch.no_grad():
            # A checkpoint moves statistics once more; other buffers move once a pass.
            for buffer, value in [*zip(self.inventory.buffers, before, strict=True), *moved]:
                buffer.copy_(value)
        gradients = [
            None if p.grad is None else sketch(index, p.grad.unsqueeze(0))[0]
            for index, p in enumerate(self.parameters)
        ]
        return gradients, [output.detach() for output in outputs]

    def _directions(self, outputs: Sequence[Tensor], rows: slice, weights: Tensor) -> list[Tensor]:
        """Random directions to go back from, the same for a sample in both computations."""
        if not outputs:
            raise UnsupportedModelError("no output depends on a parameter")
        directions = []
        for index, output in enumerate(outputs):
            shape = (self.units.samples, *output.shape[1:])
            own = _normal(index, shape)[rows]
            weighted = own * weights.view(-1, *(1,) * (own.ndim - 1))
            directions.append(weighted.to(output))
        return directions

    def _statistics(self) -> list[Tensor]:
        """The running statistics of norms."""
        return [buffer for _, _, buffer in self._named_statistics()]

    def _named_statistics(self) -> Iterator[tuple[nn.Module, str, Tensor]]:
        norms = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
        for module in self.inventory.modules:
            if isinstance(module, norms):
                for name, buffer in module._buffers.items():
                    if buffer is not None:
                        yield module, name, buffer

    def _compare_statistics(self, single: Sequence[Tensor]) -> None:
        for one, (module, name, other) in zip(single, self._named_statistics(), strict=True):
            if one.shape != other.shape or _far(one, other, _size(other), self._tolerance):
                raise UnsupportedModelError(
                    f"buffer {name!r} of {self.inventory.name_of(module)} does not become what "
                    f"separate passes make of it"
                )

    def _compare_outputs(self, single: Sequence[Tensor], separate: Sequence[Tensor]) -> None:
        for one, other in zip(single, separate, strict=True):
            if one.shape != other.shape or _far(one, other, _size(other), self._tolerance):
                raise UnsupportedModelError("its outputs are not those of separate passes")

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
                raise DifferenceError(self._unlike(index))
            distances[index] = distance
        return typical, distances

    def _unlike(self, index: int) -> str:
        wanted = self.parameters[index]
        names = self.inventory.model.named_parameters()
        name = next(name for name, parameter in names if parameter is wanted)
        return f"the gradient of {name!r} is not that of separate passes"

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


class Sketches:
    """Keeps, of each unit's gradient of each parameter, two random products and the norm.

    Args:
        parameters: what is trained.
        together: keep those of the mean over all units.
    """

    in_graph = None

    def __init__(self, parameters: Sequence[nn.Parameter], together: bool = False) -> None:
        self._together = together
        self.found: dict[int, Tensor] = {}
        """[K, 3] by the parameter's identity."""
        self._index = {id(parameter): index for index, parameter in enumerate(parameters)}

    def agreed(self, parameter: Tensor, update: Tensor) -> None:
        """Never called, since no rule is in the graph."""

    def receive(self, parameter: Tensor, gradients: UnitGradients) -> None:
        """Reduce the gradients to a few numbers each."""
        if id(parameter) in self._index:
            stack = gradients.as_used()
            stack = stack.mean(0, keepdim=True) if self._together else stack
            self.found[id(parameter)] = sketch(self._index[id(parameter)], stack)


def sketch(index: int, stack: Tensor) -> Tensor:
    """Two products of each row with random signs, and its norm: [K, 3] in float64 on the CPU.

    Two gradients at a distance d differ in a product by about d.
    """
    flat = stack.detach().reshape(len(stack), -1)
    if flat.dtype not in (torch.float32, torch.float64):
        flat = flat.float()
    products = flat @ _signs(index, flat.shape[1]).to(flat)
    return torch.cat([products, flat.norm(dim=1, keepdim=True)], 1).double().cpu()


def _signs(seed: int, count: int) -> Tensor:
    """[count, 2] of ±1, which :class:`WithoutChance` does not see drawn."""
    raw = numpy.random.default_rng(seed).bytes(count // 4 + 1)
    bits = numpy.unpackbits(numpy.frombuffer(raw, dtype=numpy.uint8))[: 2 * count]
    return torch.from_numpy(bits.reshape(2, count).astype(numpy.float32) * 2 - 1).t()


def _normal(seed: int, shape: Sequence[int]) -> Tensor:
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


def _parted(tree: Any) -> tuple[list[Tensor], Any]:
    """The tensors in what a model returns, and what is around them."""
    leaves, spec = tree_flatten(tree)
    rest = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)], (spec, rest)


def _rows(inputs: Any, rows: slice) -> Any:
    return tree_map_only(Tensor, lambda tensor: tensor[rows], inputs)
