"""Normalisation layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from ..gradients import Given, Stacked, UnitGradients
from ..units import Axis, Units
from .base import Layer

MANY = 8
"""Units from which whole-batch products are faster than the library's call for each unit."""


@dataclass
class LayerNorm(Layer):
    """Layer normalisation over the last dimensions, then weight and bias."""

    units: Units
    axis: Axis
    normalized_shape: tuple[int, ...]
    eps: float

    def forward(self, x: Tensor, *shared: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The output; the moments are kept."""
        weight, bias = shared[0], shared[1] if len(shared) > 1 else None
        y, mean, rstd = torch.native_layer_norm(x, self.normalized_shape, weight, bias, self.eps)
        return y, (x, mean, rstd, *shared)

    def backward(
        self, g: Tensor, saved: tuple[Tensor, ...], input_wanted: bool, wanted: tuple[bool, ...]
    ) -> tuple[Tensor | None, list[UnitGradients | None]]:
        """By the library, unit by unit; x at once where the units are many."""
        x, mean, rstd, *shared = saved
        if self.units.count >= MANY:
            products = (g * ((x - mean) * rstd), g)
            stacks = [self.axis.sums(t, self.units, len(self.normalized_shape)) for t in products]
            found = _stacked(shared, wanted, stacks)
            if not input_wanted:
                return None, found
            return self._backward(g, x, mean, rstd, shared, (True, False, False))[0], found
        mask = (input_wanted, *_two(wanted))
        slices = zip(*(self.axis.split(t, self.units) for t in (g, x, mean, rstd)), strict=True)
        parts = [
            self._backward(dy, inputs, own_mean, own_rstd, shared, mask)
            for dy, inputs, own_mean, own_rstd in slices
        ]
        found = _given(shared, wanted, [part[1:] for part in parts])
        return self.axis.join([part[0] for part in parts]) if input_wanted else None, found

    def _backward(
        self,
        g: Tensor,
        x: Tensor,
        mean: Tensor,
        rstd: Tensor,
        shared: Sequence[Tensor],
        wanted: tuple[bool, bool, bool],
    ) -> tuple[Tensor, Tensor, Tensor]:
        weight, bias = shared[0], shared[1] if len(shared) > 1 else None
        gradients = torch.ops.aten.native_layer_norm_backward(
            g.contiguous(),
            x.contiguous(),
            self.normalized_shape,
            mean.contiguous(),
            rstd.contiguous(),
            weight,
            bias,
            wanted,
        )
        return cast(tuple[Tensor, Tensor, Tensor], gradients)


@dataclass
class GroupNorm(Layer):
    """Group normalisation of [N, C, …], then weight and bias."""

    units: Units
    groups: int
    eps: float

    def forward(self, x: Tensor, *shared: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The output; the moments are kept."""
        weight, bias = shared[0], shared[1] if len(shared) > 1 else None
        x = x.contiguous()
        samples, channels = x.shape[:2]
        positions = x[0, 0].numel()
        y, mean, rstd = torch.native_group_norm(
            x, weight, bias, samples, channels, positions, self.groups, self.eps
        )
        return y, (x, mean, rstd, *shared)

    def backward(
        self, g: Tensor, saved: tuple[Tensor, ...], input_wanted: bool, wanted: tuple[bool, ...]
    ) -> tuple[Tensor | None, list[UnitGradients | None]]:
        """By the library: x at once, the rest unit by unit."""
        x, mean, rstd, *shared = saved
        if self.units.count >= MANY:
            channels = x.shape[1] // self.groups
            means, rstds = (
                t.view(len(x), self.groups, 1).expand(-1, -1, channels).reshape(len(x), -1, 1)
                for t in (mean, rstd)
            )
            normalized = (x.flatten(2) - means) * rstds
            found = _stacked(shared, wanted, _by_channel(g, normalized, self.units))
        else:
            sizes = list(self.units.sizes)
            parts = [
                self._backward(dy, inputs, own_mean, own_rstd, shared[0], (False, *_two(wanted)))[
                    1:
                ]
                for dy, inputs, own_mean, own_rstd in zip(
                    *(torch.split_with_sizes(t, sizes) for t in (g, x, mean, rstd)), strict=True
                )
            ]
            found = _given(shared, wanted, parts)
        if not input_wanted:
            return None, found
        return self._backward(g, x, mean, rstd, shared[0], (True, False, False))[0], found

    def _backward(
        self,
        g: Tensor,
        x: Tensor,
        mean: Tensor,
        rstd: Tensor,
        weight: Tensor,
        wanted: tuple[bool, bool, bool],
    ) -> tuple[Tensor, Tensor, Tensor]:
        samples, channels = x.shape[:2]
        gradients = torch.ops.aten.native_group_norm_backward(
            g.contiguous(),
            x,
            mean,
            rstd,
            weight,
            samples,
            channels,
            x[0, 0].numel(),
            self.groups,
            wanted,
        )
        return cast(tuple[Tensor, Tensor, Tensor], gradients)


@dataclass
class BatchNorm(Layer):
    """Batch normalisation of [N, C, …]; in training mode, of each unit by itself.

    The running statistics move once a unit, in order, as in separate passes.
    """

    units: Units
    running: tuple[Tensor, Tensor] | None
    training: bool
    momenta: tuple[float, ...]
    eps: float

    def forward(self, x: Tensor, *shared: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Unit by unit, into one output."""
        weight, bias = _pair(shared)
        y = torch.empty_like(x)
        kept: list[Tensor] = []
        sizes = list(self.units.sizes)
        parts = zip(
            torch.split_with_sizes(x, sizes),
            torch.split_with_sizes(y, sizes),
            self.momenta,
            strict=True,
        )
        for part, out, momentum in parts:
            _require_several_values(part, self.training)
            normalized, mean, invstd = torch.native_batch_norm(
                part, weight, bias, *self._running, self.training, momentum, self.eps
            )
            out.copy_(normalized)
            kept += [mean, invstd]
        return y, (x, *kept, *shared)

    def backward(
        self, g: Tensor, saved: tuple[Tensor, ...], input_wanted: bool, wanted: tuple[bool, ...]
    ) -> tuple[Tensor | None, list[UnitGradients | None]]:
        """By the library, unit by unit."""
        count = self.units.count
        x, moments, shared = saved[0], saved[1 : 1 + 2 * count], saved[1 + 2 * count :]
        weight, _ = _pair(shared)
        mask = (input_wanted, *_two(wanted))
        sizes = list(self.units.sizes)
        slices = zip(
            torch.split_with_sizes(g, sizes),
            torch.split_with_sizes(x, sizes),
            moments[::2],
            moments[1::2],
            strict=True,
        )
        parts = [
            torch.ops.aten.native_batch_norm_backward(
                part, inputs, weight, *self._running, mean, invstd, self.training, self.eps, mask
            )
            for part, inputs, mean, invstd in slices
        ]
        found = _given(shared, wanted, [part[1:] for part in parts])
        return torch.cat([part[0] for part in parts]) if input_wanted else None, found

    @property
    def _running(self) -> tuple[Tensor | None, Tensor | None]:
        return self.running or (None, None)


@dataclass
class PooledBatchNorm(Layer):
    """Batch normalisation with the statistics of the whole batch, or with fixed ones.

    In training mode the loss of a sample depends on all others; the gradient of a unit is then its
    rows' share of the batch's gradient.
    """

    units: Units
    running: tuple[Tensor, Tensor] | None
    training: bool
    momentum: float
    eps: float

    def forward(self, x: Tensor, *shared: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """All at once."""
        weight, bias = _pair(shared)
        running_mean, running_var = self.running or (None, None)
        y, mean, invstd = torch.native_batch_norm(
            x, weight, bias, running_mean, running_var, self.training, self.momentum, self.eps
        )
        kept = self.running if self.running is not None and not self.training else (mean, invstd)
        return y, (x, mean, invstd, *kept, *shared)

    def backward(
        self, g: Tensor, saved: tuple[Tensor, ...], input_wanted: bool, wanted: tuple[bool, ...]
    ) -> tuple[Tensor | None, list[UnitGradients | None]]:
        """X by the library; weight and bias by products with the normalised input."""
        x, mean, invstd, first, second, *shared = saved
        fixed = self.running is not None and not self.training
        running = (first, second) if fixed else (None, None)
        dx = None
        if input_wanted:
            dx = torch.ops.aten.native_batch_norm_backward(
                g,
                x,
                _pair(shared)[0],
                *running,
                mean,
                invstd,
                self.training,
                self.eps,
                (True, False, False),
            )[0]
        if fixed:
            mean, invstd = first, (second + self.eps).rsqrt()
        normalized = (x.flatten(2) if x.ndim > 2 else x.unsqueeze(2)) - mean.view(1, -1, 1)
        normalized.mul_(invstd.view(1, -1, 1))
        return dx, _stacked(shared, wanted, _by_channel(g, normalized, self.units))


def _pair(shared: Sequence[Tensor]) -> tuple[Tensor | None, Tensor | None]:
    return shared[0] if shared else None, shared[1] if len(shared) > 1 else None


def _by_channel(g: Tensor, normalized: Tensor, units: Units) -> list[Tensor]:
    """The gradients of weight and bias of each unit, [K, C], from those of the output [N, C, …]."""
    g = g.reshape(normalized.shape)
    return [units.sums((g * normalized).sum(2)), units.sums(g.sum(2))]


def _stacked(
    shared: Sequence[Tensor], wanted: tuple[bool, ...], stacks: Sequence[Tensor]
) -> list[UnitGradients | None]:
    return [
        Stacked(like, stack) if want else None
        for like, want, stack in zip(shared, wanted, stacks, strict=False)
    ]


def _two(wanted: tuple[bool, ...]) -> tuple[bool, bool]:
    """Whether weight and bias are wanted."""
    return wanted[:1] == (True,), wanted[1:] == (True,)


def _given(
    shared: Sequence[Tensor], wanted: tuple[bool, ...], parts: Sequence[tuple[Tensor, ...]]
) -> list[UnitGradients | None]:
    """From the gradients of weight and bias in each unit."""
    return [
        Given(like, [part[index] for part in parts]) if want else None
        for index, (like, want) in enumerate(zip(shared, wanted, strict=True))
    ]


def _require_several_values(part: Tensor, training: bool) -> None:
    if training and part.numel() == part.shape[1]:
        raise ValueError(
            f"BatchNorm in training mode needs more than one value per channel in each domain; "
            f"found shape {list(part.shape)} in one. Draw more samples of each domain, or call "
            f"eval() on the norm."
        )
