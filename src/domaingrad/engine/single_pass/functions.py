"""Autograd functions whose shared tensors get their gradients unit by unit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

from .gradients import Given, Stacked
from .layers.base import Layer
from .session import Session, Use
from .units import Axis


@contextmanager
def _walk(session: Session) -> Iterator[None]:
    """Inside a backward of ours, whose operations are nobody's business."""
    session.require_own_walk()
    before, session.inside = session.inside, True
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        session.inside = before


class Known(Function):
    """A known layer."""

    @staticmethod
    def forward(
        ctx: Any, layer: Layer, session: Session, uses: Sequence[Use | None], *tensors: Tensor
    ) -> Tensor:
        """The layer's output; ``tensors`` are the anchor, x and the shared tensors.

        ``uses`` stands beside the shared tensors; ``None`` for one that is not trained.
        """
        _, x, *shared = tensors
        device = x.device.type
        if layer.lowered and torch.is_autocast_enabled(device):
            shared = [tensor.to(x.dtype) for tensor in shared]
        with torch.autocast(device, enabled=False):
            y, saved = layer.forward(x, *shared)
        ctx.save_for_backward(*saved)
        ctx.layer, ctx.session, ctx.uses = layer, session, uses
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """X at once, the shared tensors unit by unit."""
        session: Session = ctx.session
        saved = ctx.saved_tensors  # A checkpoint runs its part of the model again here.
        with _walk(session):
            wanted = tuple(use is not None for use in ctx.uses)
            x, found = ctx.layer.backward(g, saved, ctx.needs_input_grad[4], wanted)
            shared = [
                None if gradients is None else session.contribute(use, gradients)
                for use, gradients in zip(ctx.uses, found, strict=True)
            ]
        return None, None, None, None, x, *shared


class Replicate(Function):
    """One alias of a shared tensor for each unit."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, session: Session, use: Use, _anchor: Tensor, shared: Tensor
    ) -> tuple[Tensor, ...]:
        """K aliases."""
        ctx.session, ctx.use, ctx.like = session, use, shared  # type: ignore[attr-defined]
        ctx.set_materialize_grads(False)
        return tuple(shared.view_as(shared) for _ in range(session.units.count))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Their gradients are those of the units."""
        if all(gradient is None for gradient in gradients):
            return None, None, None, None
        with _walk(ctx.session):
            update = ctx.session.contribute(ctx.use, Given(ctx.like, gradients))
        return None, None, None, update


class Spread(Function):
    """A shared tensor repeated along the axis of the samples, without copying it."""

    @staticmethod
    def forward(
        ctx: Any, session: Session, use: Use, _anchor: Tensor, shared: Tensor, ndim: int, dim: int
    ) -> Tensor:
        """A view with N entries along ``dim``, of ``ndim`` dimensions."""
        ctx.session, ctx.use, ctx.like, ctx.dim = session, use, shared, dim
        aligned = shared.reshape((1,) * (ndim - shared.ndim) + tuple(shared.shape))
        return aligned.expand(*(-1,) * dim, session.units.samples, *(-1,) * (ndim - dim - 1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """Sums over the samples of each unit."""
        with _walk(ctx.session):
            stack = ctx.session.units.sums(g.movedim(ctx.dim, 0))
            shape = (ctx.session.units.count, *ctx.like.shape)
            update = ctx.session.contribute(ctx.use, Stacked(ctx.like, stack.reshape(shape)))
        return None, None, None, update, None, None


class Rows(Function):
    """A shared tensor that has a row for each sample (an expanded token, say)."""

    @staticmethod
    def forward(
        ctx: Any, session: Session, use: Use, _anchor: Tensor, shared: Tensor, axis: Axis
    ) -> Tensor:
        """The tensor itself."""
        ctx.session, ctx.use, ctx.axis, ctx.like = session, use, axis, shared
        return shared.view_as(shared)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """Each unit has the gradient of its own rows."""
        with _walk(ctx.session):
            parts = ctx.axis.split(g, ctx.session.units)
            gradients = [
                ctx.axis.join(
                    [
                        part if at == unit else torch.zeros_like(part)
                        for at, part in enumerate(parts)
                    ]
                )
                for unit in range(len(parts))
            ]
            update = ctx.session.contribute(ctx.use, Given(ctx.like, gradients))
        return None, None, None, update, None
