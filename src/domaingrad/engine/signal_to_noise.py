"""Gradient signal-to-noise ratio over the samples of a batch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any
from warnings import warn
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from domaingrad.rules.statistics import accumulation_dtype

from .batch import Batch
from .errors import AgreementError, SinglePassWarning
from .separate_passes import SeparatePasses
from .single_pass.engine import MIXED_LOSSES, SinglePass
from .single_pass.gradients import UnitGradients
from .single_pass.inventory import Inventory
from .single_pass.verification import InconclusiveError, UnfitError


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
    model: nn.Module, inputs: Any, losses: Callable[[Any], Tensor], **options: Any
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
        losses: from the model's outputs to the loss of each sample, [N].
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
    return statistics_of_units(model, inputs, losses, options, torch.arange(size))


def statistics_of_units(
    model: nn.Module,
    inputs: Any,
    losses: Callable[[Any], Tensor],
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
        losses: from the model's outputs to the loss of each sample, [N].
        options: passed to the model as they are.
        units: integer tensor of shape [N], the unit of each sample.
        wanted: the parameters to take statistics of; ``None`` for all.
    """
    inventory = Inventory(model)
    if not inventory.trained:
        raise ValueError("the model has no parameter that requires grad; found nothing to measure.")
    batch = Batch(units)
    batch.check(inputs, options)
    kept = {id(parameter) for parameter in (inventory.trained if wanted is None else wanted)}
    ignored = {i for i, parameter in enumerate(inventory.trained) if id(parameter) not in kept}
    moments = _Moments(len(batch.labels), ignored)
    try:
        _in_one_pass(inventory, batch, moments, inputs, losses, options)
    except UnfitError as error:
        moments = _Moments(len(batch.labels), ignored)
        _unit_by_unit(error, inventory, batch, moments, inputs, losses, options)
        if isinstance(error, InconclusiveError):
            return moments.by_name(inventory)
        warn(
            f"one pass for all samples is not exact for this model: {error}. They pass one by one "
            f"(or unit by unit) instead, which is right but slow.",
            SinglePassWarning,
            stacklevel=3,
        )
    return moments.by_name(inventory)


_passes: WeakKeyDictionary[nn.Module, SinglePass] = WeakKeyDictionary()
"""What is known of models that were seen before."""


def _in_one_pass(
    inventory: Inventory,
    batch: Batch,
    moments: _Moments,
    inputs: Any,
    losses: Callable[[Any], Tensor],
    options: Mapping[str, Any],
) -> None:
    reason = inventory.out_of_sight
    if reason is not None:
        raise UnfitError(reason)
    passes = _passes.setdefault(inventory.model, SinglePass(of_samples=True))
    with torch.enable_grad():
        passed, outputs = passes.forward(inventory, batch, inputs, options)
        values = losses(outputs)
        check_losses(values, batch.size)
        passed.backward(values, moments)


def _unit_by_unit(
    error: UnfitError,
    inventory: Inventory,
    batch: Batch,
    moments: _Moments,
    inputs: Any,
    losses: Callable[[Any], Tensor],
    options: Mapping[str, Any],
) -> None:
    """The outputs pass through ``losses`` together, since it knows the batch's targets."""
    if inventory.training_batch_norms:
        raise ValueError(
            f"the samples must pass one by one or unit by unit ({error}), and batch norms in "
            f"training mode look at all of them; call eval() on the norms, or change what the "
            f"message names."
        ) from error
    passes = SeparatePasses(batch)
    with torch.enable_grad():
        values = losses(passes.forward(inventory.model, inputs, options))
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
                    moments.add(index, parameter.grad)
    finally:
        for parameter, gradient in zip(inventory.trained, before, strict=True):
            parameter.grad = gradient


class _Moments:
    """Receives the units' gradients of each parameter."""

    def __init__(self, size: int, ignored: Collection[int]) -> None:
        self.found: dict[int, SignalToNoise] = {}
        self._size = size
        self._ignored = ignored

    def receive(self, index: int, gradients: UnitGradients) -> Tensor | None:
        """All units' gradients; nothing goes to ``.grad``."""
        if index in self._ignored:
            return None
        total, squares = gradients.moments()
        self.found[index] = SignalToNoise(total.div_(self._size), squares.div_(self._size))
        return None

    def add(self, index: int, gradient: Tensor) -> None:
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

    def by_name(self, inventory: Inventory) -> dict[str, SignalToNoise]:
        """What was found, by the names of the parameters."""
        names = {id(p): name for name, p in inventory.model.named_parameters()}
        return {
            names[id(parameter)]: self.found[index]
            for index, parameter in enumerate(inventory.trained)
            if index in self.found
        }

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


def check_losses(losses: Tensor, size: int) -> None:
    """Refuse losses that are not one a sample.

    Raises:
        ValueError: another shape, or no tensor.
    """
    if not isinstance(losses, Tensor) or losses.shape != (size,):
        found = list(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise ValueError(
            f"losses(outputs) must return one loss a sample, shape [{size}]; found {found}. "
            f"Compute them with reduction='none'."
        )
