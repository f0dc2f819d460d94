"""Gradient signal-to-noise ratio over the samples of a batch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from domaingrad.rules.statistics import accumulation_dtype

from .gradients import UnitGradients
from .inventory import Inventory
from .scratch import Scratch
from .visiting import visit_units


@dataclass(frozen=True, slots=True)
class SignalToNoise:
    """Moments of one parameter's gradient over the samples of a batch, component by component.

    ``mean`` is (1/N) Σ_s g_s and ``mean_square`` (1/N) Σ_s g_s², both of the parameter's shape;
    float32 for half precision.
    """

    mean: Tensor
    mean_square: Tensor

    @property
    def bounded(self) -> Tensor:
        """Q = mean² / mean_square in [0, 1]; 0/0 is 0. It ranks components as the GSNR does."""
        q = self.mean.square() / self.mean_square
        return torch.where(self.mean_square > 0, q, 0.0).clamp_(max=1.0)

    @property
    def gsnr(self) -> Tensor:
        """R = mean² / (mean_square − mean²), with the biased variance; inf where that is zero."""
        q = self.bounded
        return q / (1.0 - q)


def signal_to_noise(
    model: nn.Module, inputs: Any, loss_fn: Callable[[Any], Tensor], **options: Any
) -> dict[str, SignalToNoise]:
    r"""Mean, mean square and GSNR of every parameter's gradient over the samples of a batch.

    r_j = (E_s g_{s,j})² / Var_s g_{s,j} (Liu et al., arXiv 2001.07384), g_s the gradient of sample
    s's loss. One forward and one backward pass; where the layer allows, the squares are summed
    without any sample's gradient: (b²)ᵀ(a²) for a linear layer with inputs a and output gradients
    b. A model for which that is not exact runs sample by sample, with a warning.

    Ours: with a batch norm in training mode, where a sample's loss depends on all others, g_s is
    the share of sample s's rows in the gradient of the batch; the shares add up to that gradient.

    Args:
        model: the model. Its ``.grad`` is left alone; running statistics move as in one forward.
        inputs: as the model takes them (a tuple is positional, a dict keyword arguments), every
            tensor with the N samples along its first dimension.
        loss_fn: from the model's outputs to the loss of each sample, [N].
        **options: passed to the model as they are.

    Returns:
        The statistics of each trained parameter that the losses depend on, by its name.

    Raises:
        ValueError: losses that are not one a sample, nothing to train, or a batch norm in training
            mode in a model whose samples must pass one by one.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> x, y = torch.tensor([[1.0], [2.0]]), torch.zeros(2)
    >>> moments = signal_to_noise(model, x, lambda out: out[:, 0] - y)["weight"]
    >>> moments.mean.item(), moments.mean_square.item(), round(moments.gsnr.item(), 4)
    (1.5, 2.5, 9.0)
    """
    size = size_of(inputs)
    return statistics_of_units(model, inputs, loss_fn, options, torch.arange(size))


def statistics_of_units(
    model: nn.Module,
    inputs: Any,
    loss_fn: Callable[[Any], Tensor],
    options: Mapping[str, Any],
    units: Tensor,
    wanted: Collection[nn.Parameter] | None = None,
) -> dict[str, SignalToNoise]:
    """As :func:`signal_to_noise`, over any units: domains, micro-batches, samples.

    A unit's gradient is that of the mean loss of its samples; batch norms in training mode look at
    the whole batch, whatever the units.

    Args:
        model: the model.
        inputs: as the model takes them.
        loss_fn: from the model's outputs to the loss of each sample, [N].
        options: passed to the model as they are.
        units: integer tensor of shape [N], the unit of each sample.
        wanted: the parameters to take statistics of; ``None`` for all.
    """
    trained = Inventory(model).trained
    kept = {id(parameter) for parameter in (trained if wanted is None else wanted)}
    ignored = {i for i, parameter in enumerate(trained) if id(parameter) not in kept}
    moments = visit_units(
        model, inputs, loss_fn, options, units, lambda count: _Moments(count, ignored)
    )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: moments.found[index]
        for index, parameter in enumerate(trained)
        if index in moments.found
    }


class _Moments:
    """Receives the units' gradients of each parameter."""

    in_graph = None

    def __init__(self, size: int, ignored: Collection[int]) -> None:
        self.found: dict[int, SignalToNoise] = {}
        self._size = size
        self._ignored = ignored
        self._scratch = Scratch()

    def receive(self, index: int, gradients: UnitGradients) -> None:
        """All units' gradients; nothing goes to ``.grad``."""
        if index not in self._ignored:
            self.found[index] = SignalToNoise(*gradients.moments(self._scratch))

    def add(self, index: int, unit: int, gradient: Tensor) -> None:
        """One unit's gradient."""
        if index in self._ignored:
            return
        g = gradient.to(accumulation_dtype(gradient.dtype)) / self._size
        before = self.found.get(index)
        square = g.square() * self._size
        self.found[index] = (
            SignalToNoise(g.clone(), square)
            if before is None
            else SignalToNoise(before.mean + g, before.mean_square + square)
        )

    def finish(self) -> dict[int, Tensor]:
        """Nothing waits."""
        return {}


def size_of(inputs: Any) -> int:
    """The number of samples, N, from the first tensor in the inputs.

    Raises:
        TypeError: there is no tensor.
    """
    for leaf in tree_flatten(inputs)[0]:
        if isinstance(leaf, Tensor) and leaf.ndim > 0:
            return len(leaf)
    raise TypeError(
        f"expected inputs with a tensor whose first dimension holds the samples; found a "
        f"{type(inputs).__name__}."
    )
