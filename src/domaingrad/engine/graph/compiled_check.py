"""The first pass through a compiled graph, compared with the same graph without the compiler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from domaingrad.rules.statistics import statistics_of

from ..errors import AgreementError
from ..gradients import UnitGradients
from .capture import CapturedGraph, Receiver, RuleInGraph
from .program import Program
from .verification import TOLERANCE, TOLERANCE_OF_HALF


def require_same(captured: CapturedGraph, args: Sequence[Any], compiled: Program) -> None:
    """Compare outputs, and what becomes of random gradients of them.

    Gradients that are zero but for rounding (a bias before a norm) are left out, and so are single
    components where a rule was applied: their sign is chance.

    Args:
        captured: the graph, which draws no random numbers.
        args: its inputs; buffers are left as they were.
        compiled: the compiled program.

    Raises:
        AgreementError: the two differ.
    """
    rule = captured.current.expected()
    kept, other = _Kept(), _Kept(rule)
    without = _passed(captured, captured.program, args, kept)
    outputs = _passed(captured, compiled, args, other)
    for one, two in zip(without, outputs, strict=True):
        if not _is_near(two, one, _tolerance(one)):
            raise AgreementError(_DIFFERENT.format(what="outputs"))
    typical = max((_size(stack) for stack in kept.stacks.values()), default=0.0)
    for key, stack in kept.stacks.items():
        if _size(stack) <= ROUNDING * _tolerance(stack) * typical:
            continue
        found, by = other.updates.get(key), rule
        if found is None:
            found, by = other.stacks[key], None
        if not _agree(stack, found, by):
            raise AgreementError(_DIFFERENT.format(what="gradients"))


ROUNDING = 0.1
"""Share of the tolerance up to which a tensor's gradients, over the largest ones, are noise."""

_DIFFERENT = (
    "the {what} of the compiled model are not those of the same graph without the compiler, so "
    "the update would be wrong. Leave compile out, and please report the model."
)


class _Kept:
    """Keeps the stacks, unless the graph applies a rule."""

    def __init__(self, rule: RuleInGraph | None = None) -> None:
        self.in_graph = rule
        self.stacks: dict[int, Tensor] = {}
        self.updates: dict[int, Tensor] = {}

    def agreed(self, parameter: Tensor, update: Tensor) -> None:
        """Keep what the graph made of a stack."""
        self.updates[id(parameter)] = update

    def receive(self, parameter: Tensor, gradients: UnitGradients) -> None:
        """Keep a stack."""
        self.stacks[id(parameter)] = gradients.stack()

    def note(self, largest: Tensor) -> None:
        """Nothing is said of these gradients."""


def _passed(
    captured: CapturedGraph, program: Program, args: Sequence[Any], receiver: Receiver
) -> list[Tensor]:
    buffers = [
        (arg, arg.clone())
        for index, arg in enumerate(args)
        if isinstance(arg, Tensor)
        and captured.is_of_model(index)
        and not isinstance(arg, nn.Parameter)
    ]
    passed = program.forward(args)
    starts = [_direction(passed.outputs[place]) for place in captured.found.differentiable]
    current = captured.current
    with current.walking(current.units, args, receiver):
        program.backward(passed, starts)
    with torch.no_grad():
        for buffer, value in buffers:
            if not torch.equal(buffer, value):
                buffer.copy_(value)
    return [output for output in passed.outputs if isinstance(output, Tensor)]


def _direction(output: Tensor) -> Tensor:
    """Random numbers, the same for both."""
    draw = torch.Generator().manual_seed(output.numel())
    return torch.randn(output.shape, generator=draw, dtype=torch.float64).to(output)


def _agree(stack: Tensor, found: Tensor, rule: RuleInGraph | None) -> bool:
    tolerance = _tolerance(stack)
    if rule is None:
        return _is_near(found, stack, tolerance)
    flat = stack.flatten(1) if stack.ndim > 1 else stack.unsqueeze(1)
    weighted = flat if rule.factors is None else flat * rule.factors.to(flat).unsqueeze(1)
    statistics = statistics_of(weighted, rule.rule.statistics | {"mean"})
    wanted = rule.rule.update(statistics)
    wanted = wanted if rule.scale is None else wanted * rule.scale.to(wanted)
    sizes = flat.abs()
    doubtful = (sizes <= tolerance * sizes.amax(1, keepdim=True)).any(0)
    share = float(doubtful.sum()) / max(1, int((wanted != 0).sum()))
    return _is_near(found.flatten()[~doubtful], wanted[~doubtful], tolerance + share)


def _size(stack: Tensor) -> float:
    """Root mean square of what is finite."""
    finite = stack.double()[stack.isfinite()]
    return float(finite.square().mean().sqrt()) if finite.numel() > 0 else 0.0


def _is_near(one: Tensor, other: Tensor, tolerance: float) -> bool:
    finite = one.isfinite() | other.isfinite()
    difference = (one.double() - other.double())[finite].norm()
    return bool(difference <= tolerance * other.double()[finite].norm() + 1e-30)


def _tolerance(tensor: Tensor) -> float:
    if torch.is_autocast_enabled(tensor.device.type):
        return TOLERANCE_OF_HALF
    return TOLERANCE.get(tensor.dtype, TOLERANCE_OF_HALF)
