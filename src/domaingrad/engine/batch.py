"""A batch that holds several domains: which sample belongs to which, and how a model takes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only

from domaingrad.rules.transfer import to_device

from .units import Units


class Order:
    """How the samples of a batch are put for a model.

    Args:
        order: the samples, by their place in the batch.
        units: the domains, as they then lie.
    """

    def __init__(self, order: Tensor, units: Units) -> None:
        self.units = units
        self.is_that_of_batch = bool((order[1:] > order[:-1]).all())
        self._order = order
        self._back = torch.empty_like(order)
        self._back[order] = torch.arange(len(order))

    def of(self, inputs: Any) -> Any:
        """Every tensor of the inputs in this order."""
        return inputs if self.is_that_of_batch else tree_map_only(Tensor, self._put, inputs)

    def _put(self, tensor: Tensor) -> Tensor:
        if self._order.device != tensor.device:
            self._order = to_device(self._order, tensor.device)
        return tensor[self._order]

    def undone(self, tensor: Tensor) -> Tensor:
        """A tensor in this order, in that of the batch."""
        if self.is_that_of_batch:
            return tensor
        if self._back.device != tensor.device:
            self._back = to_device(self._back, tensor.device)
        return tensor[self._back]


class Batch:
    """The samples of a mixed batch by domain, in order of label.

    Args:
        domain: integer tensor of shape [N], the domain of each sample.

    Raises:
        TypeError, ValueError: ``domain`` is not a non-empty integer tensor of one dimension.
    """

    def __init__(self, domain: Tensor) -> None:
        if not isinstance(domain, Tensor) or domain.is_floating_point() or domain.is_complex():
            raise TypeError(
                f"domain must be an integer tensor of shape [N], the domain of each sample; found "
                f"{_described(domain)}."
            )
        if domain.dtype == torch.bool or domain.ndim != 1 or len(domain) == 0:
            raise ValueError(
                f"domain must be an integer tensor of shape [N] with N ≥ 1, the domain of each "
                f"sample; found {_described(domain)}."
            )
        self.size = len(domain)
        numbers = domain.cpu().numpy()
        labels, places, counts = numpy.unique(numbers, return_inverse=True, return_counts=True)
        self.labels: list[int] = labels.tolist()
        self.sizes: tuple[int, ...] = tuple(counts.tolist())
        order = places.argsort(kind="stable")
        self.order = torch.from_numpy(order)
        """The samples, domain after domain."""
        self.rows: list[Tensor] = list(torch.split(self.order, list(self.sizes)))
        """The samples of each domain."""
        self.back = torch.from_numpy(order.argsort())
        """From the order by domain to that of the batch."""
        self._shares = torch.from_numpy(1.0 / counts[places])

    def shares(self, like: Tensor) -> Tensor:
        """One over the number of samples of a sample's domain, in the order of the batch."""
        if self._shares.dtype != like.dtype or self._shares.device != like.device:
            self._shares = to_device(self._shares.to(like.dtype), like.device)
        return self._shares

    @cached_property
    def one_by_one(self) -> Order:
        """One domain after the other."""
        return Order(self.order, Units(self.sizes))

    @cached_property
    def by_turns(self) -> Order:
        """The first sample of each domain, then the second, for domains of equal size."""
        return Order(torch.stack(self.rows, 1).flatten(), Units(self.sizes, turn=1))

    @property
    def can_take_turns(self) -> bool:
        """Whether there are several domains, all of one size."""
        return len(self.sizes) > 1 and len(set(self.sizes)) == 1

    @cached_property
    def of_samples(self) -> Order:
        """As units whose batch norms look at the whole batch."""
        return Order(self.order, Units(self.sizes, pooled=True))

    def check(self, inputs: Any, options: Mapping[str, Any]) -> None:
        """Refuse inputs that cannot be told apart by domain.

        Raises:
            TypeError, ValueError: no tensor, a tensor without N rows, a tensor with a graph.
        """
        if isinstance(inputs, Tensor) and not options:
            _refuse_graph(self._check_input(inputs))
            return
        tree_map_only(Tensor, self._check_input, inputs)
        tree_map_only(Tensor, _refuse_graph, (inputs, dict(options)))
        if not any(isinstance(leaf, Tensor) for leaf in tree_flatten(inputs)[0]):
            raise TypeError(
                f"the inputs hold no tensor that could be split by domain; found a "
                f"{type(inputs).__name__}. Pass a tensor, a tuple or a dict of tensors, or use "
                f"`with agree.domain(name)`."
            )

    def _check_input(self, tensor: Tensor) -> Tensor:
        if tensor.ndim == 0 or len(tensor) != self.size:
            raise ValueError(
                f"every tensor of the inputs must hold one row per sample, {self.size} as domain "
                f"does; found shape {list(tensor.shape)}. Pass what all samples share as a keyword "
                f"argument, or use `with agree.domain(name)`."
            )
        return tensor


def run(model: Callable[..., Any], inputs: Any, options: Mapping[str, Any]) -> Any:
    """Call a model: a tuple holds positional, a dict keyword arguments."""
    if isinstance(inputs, tuple):
        return model(*inputs, **options)
    if isinstance(inputs, dict):
        return model(**inputs, **options)
    return model(inputs, **options)


def select(inputs: Any, rows: Tensor) -> Any:
    """The rows of every tensor in a structure."""
    return tree_map_only(Tensor, partial(_select, rows), inputs)


def _select(rows: Tensor, tensor: Tensor) -> Tensor:
    return tensor[to_device(rows, tensor.device)]


def _refuse_graph(tensor: Tensor) -> Tensor:
    if tensor.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            "the inputs of agree(x, domain) require grad, but its graph ends at the model's "
            "inputs. Wrap a model that holds everything to be trained, detach the inputs, or use "
            "`with agree.domain(name)`."
        )
    return tensor


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"shape {list(value.shape)} of {value.dtype}"
    return f"a {type(value).__name__}"
