"""Normalization layers.

The library's kernels take gradients for contiguous without a look, and the layout that a graph was
captured with is not always the one it meets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...gradients import Stacked
from ...units import Units
from ..layout import PerUnit, Sampled, Shared
from .registry import Call, Outcome, operators, rule

aten = torch.ops.aten


@rule(aten.native_layer_norm, *operators("_fused_rms_norm"))
def layer_norm(call: Call) -> Outcome:
    """Over the last dimensions."""
    axis = call.axis("input")
    if axis.dim >= len(call.shape(call["input"])) - len(call["normalized_shape"]):
        raise call.mixes()
    return Outcome(tuple(axis for _ in call.node.meta["val"]))


@rule(aten.native_layer_norm_backward)
def layer_norm_backward(call: Call) -> Outcome:
    """The gradient of the input at once; of weight and bias, sums unit by unit."""
    axis = call.axis("input")
    if call.at(call["grad_out"]) != axis:
        raise call.mixes()
    return Outcome((axis, PerUnit(), PerUnit()), _LayerNorm(axis))


class _LayerNorm:
    """dw = Σ dy · x̂, db = Σ dy."""

    def __init__(self, axis: Sampled) -> None:
        self._axis = axis

    def __call__(
        self,
        units: Units,
        g: Tensor,
        x: Tensor,
        shape: list[int],
        mean: Tensor,
        rstd: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mask: list[bool],
    ) -> tuple[Any, Any, Any]:
        """Only those that the mask wants."""
        dx = None
        if mask[0]:
            wanted = [True, False, False]
            g, x = g.contiguous(), x.contiguous()
            dx = aten.native_layer_norm_backward(g, x, shape, mean, rstd, weight, bias, wanted)[0]
        over = list(range(g.ndim - len(shape)))
        dw = self._sums(g * ((x - mean) * rstd).to(g.dtype), units, over) if mask[1] else None
        db = self._sums(g, units, over) if mask[2] else None
        return dx, dw, db

    def _sums(self, x: Tensor, units: Units, over: list[int]) -> Stacked:
        return Stacked(self._axis.sums(x, units, over))


@rule(aten.native_group_norm)
def group_norm(call: Call) -> Outcome:
    """Over groups of channels of each row."""
    axis = call.axis("input")
    if axis.dim != 0:
        raise call.mixes()
    return Outcome((axis, axis, axis))


@rule(aten.native_group_norm_backward)
def group_norm_backward(call: Call) -> Outcome:
    """The gradient of the input at once; of weight and bias, sums unit by unit."""
    axis = call.axis("input")
    if call.at(call["grad_out"]) != axis or axis.dim != 0:
        raise call.mixes()
    return Outcome((axis, PerUnit(), PerUnit()), _GroupNorm(axis))


class _GroupNorm:
    """dw = Σ dy · x̂, db = Σ dy."""

    def __init__(self, axis: Sampled) -> None:
        self._axis = axis

    def __call__(
        self,
        units: Units,
        g: Tensor,
        x: Tensor,
        mean: Tensor,
        rstd: Tensor,
        weight: Tensor | None,
        rows: int,
        channels: int,
        positions: int,
        groups: int,
        mask: list[bool],
    ) -> tuple[Any, Any, Any]:
        """Only those that the mask wants."""
        dx = None
        if mask[0]:
            wanted = [True, False, False]
            g, x = g.contiguous(), x.contiguous()
            dx = aten.native_group_norm_backward(
                g, x, mean, rstd, weight, rows, channels, positions, groups, wanted
            )[0]
        dw = db = None
        flat = g.reshape(rows, channels, -1)
        if mask[1]:
            apart = x.reshape(rows, groups, -1)
            normal = ((apart - mean.view(rows, groups, 1)) * rstd.view(rows, groups, 1)).to(g.dtype)
            products = (flat * normal.view(rows, channels, -1)).sum(2)
            dw = Stacked(self._axis.sums(products, units, [0]))
        if mask[2]:
            db = Stacked(self._axis.sums(flat.sum(2), units, [0]))
        return dx, dw, db


@rule(*operators("_native_batch_norm_legit_no_training", "_batch_norm_no_update"))
def batch_norm_in_evaluation(call: Call) -> Outcome:
    """With running statistics."""
    axis = call.axis("input")
    extra = len(call.node.meta["val"]) - 1
    if axis.dim == 1:
        own = _repeated(call, axis)
        return Outcome((axis, *(own for _ in range(extra))))
    return Outcome((axis, *(Shared() for _ in range(extra))))


def _repeated(call: Call, axis: Sampled) -> Sampled:
    """Of an instance norm, written as a batch norm of one row: each channel belongs to a sample."""
    own = axis.moved(0)
    for name in ("weight", "bias", "running_mean", "running_var"):
        value = call.args.get(name)
        if isinstance(value, torch.fx.Node) and call.at(value) != own:
            raise call.refuse("normalizes samples with weights that are not repeated for each")
    return own


@rule(
    *operators(
        "_native_batch_norm_legit_functional",
        "_native_batch_norm_legit",
        "_batch_norm_with_update_functional",
        "native_batch_norm",
    )
)
def batch_norm(call: Call) -> Outcome:
    """In training mode, each unit with its own statistics; the running ones move in order."""
    axis = call.axis("input")
    if call.args.get("training", True) is False:
        return batch_norm_in_evaluation(call)
    extra = len(call.node.meta["val"]) - 3
    if axis.dim == 1:
        own = _repeated(call, axis)
        return Outcome((axis, own, own, *(own for _ in range(extra))))
    if axis.dim != 0 or axis.repeated:
        raise call.mixes()
    run: Callable[..., Any] = _BatchNorm(axis, call.op, "running_mean" in call.args)
    return Outcome((axis, PerUnit(), PerUnit(), *(Shared() for _ in range(extra))), run)


class _BatchNorm:
    """One call a unit."""

    def __init__(self, axis: Sampled, op: Any, running: bool) -> None:
        self._axis, self._op, self._running = axis, op, running

    def __call__(self, units: Units, x: Tensor, weight: Any, bias: Any, *rest: Any) -> Any:
        """Outputs, then moments per unit, then the running statistics that came of it."""
        running, options = (list(rest[:2]), rest[2:]) if self._running else ([], rest)
        outputs: list[Tensor] = []
        moments: list[tuple[Tensor, Tensor]] = []
        more: list[Any] = []
        if units.pooled:
            y, mean, rstd, *moved = self._op(x, weight, bias, *running, *options)
            count = units.count
            return y, mean.expand(count, -1), rstd.expand(count, -1), *moved
        for part in self._axis.split(x, units):
            y, mean, rstd, *moved = self._op(part, weight, bias, *running, *options)
            outputs.append(y)
            moments.append((mean, rstd))
            if moved:
                running, more = moved[-2:] if self._running else [], list(moved[:-2])
        means, rstds = (torch.stack(each) for each in zip(*moments, strict=True))
        return self._axis.join(outputs, units), means, rstds, *more, *running


@rule(*operators("native_batch_norm_backward", "batch_norm_backward"))
def batch_norm_backward(call: Call) -> Outcome:
    """Unit by unit in training mode; sums unit by unit in evaluation mode."""
    name = "grad_out" if "grad_out" in call.args else "grad_output"
    axis = call.axis("input")
    if call.at(call[name]) != axis:
        raise call.mixes()
    training = bool(call.args.get("train", call.args.get("update", call.args.get("training"))))
    if axis.dim == 1:
        own = axis.moved(0)
        return Outcome((axis, own, own))
    return Outcome((axis, PerUnit(), PerUnit()), _BatchNormBackward(axis, call.op, training), True)


class _BatchNormBackward:
    """The library's gradients of each unit's part."""

    def __init__(self, axis: Sampled, op: Any, training: bool) -> None:
        self._axis, self._op, self._training = axis, op, training

    def __call__(self, units: Units, g: Tensor, x: Tensor, *rest: Any) -> tuple[Any, Any, Any]:
        """Only those that the mask wants."""
        weight, running_mean, running_var, mean, rstd, *options = rest
        parts = []
        if units.pooled and self._training:
            return self._pooled(units, g, x, weight, running_mean, running_var, mean, rstd, options)
        for unit, (dy, own) in enumerate(
            zip(self._axis.split(g, units), self._axis.split(x, units), strict=True)
        ):
            moments = (mean[unit], rstd[unit]) if self._training else (mean, rstd)
            parts.append(self._op(dy, own, weight, running_mean, running_var, *moments, *options))
        dx, dw, db = zip(*parts, strict=True)
        return (
            None if dx[0] is None else self._axis.join(dx, units),
            None if dw[0] is None else Stacked(torch.stack(dw)),
            None if db[0] is None else Stacked(torch.stack(db)),
        )

    def _pooled(
        self,
        units: Units,
        g: Tensor,
        x: Tensor,
        weight: Any,
        running_mean: Any,
        running_var: Any,
        mean: Tensor,
        rstd: Tensor,
        options: list[Any],
    ) -> tuple[Any, Any, Any]:
        """Statistics of the whole batch; a unit's gradient is its rows' share."""
        dx = self._op(g, x, weight, running_mean, running_var, mean[0], rstd[0], *options)[0]
        shape = (1, -1, *(1,) * (x.ndim - 2))
        normal = ((x - mean[0].view(shape)) * rstd[0].view(shape)).to(g.dtype)
        over = [0, *range(2, g.ndim)]
        return (
            dx,
            Stacked(self._axis.sums(g * normal, units, over)),
            Stacked(self._axis.sums(g, units, over)),
        )
