"""What a rule is: K domains' gradients in, one update out. Rules know no model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from .statistics import Statistic, Statistics, accumulation_dtype, statistics_of

Scope = Literal["component", "tensor", "model"]
"""Over what a rule takes its scale: nothing, one parameter tensor, or the whole model."""


class Rule(ABC):
    """Map the gradients of K domains to one update.

    ``rule(G)`` takes a tensor of shape [K, *shape] and returns one of shape [*shape], same
    dtype and device; half precision is summed in float32. This is also what TorchJD calls an
    aggregator of a [K, P] matrix. Inside a model the engine feeds the rule instead.

    A rule belongs to one of two families, :class:`ElementwiseRule` or :class:`GramianRule`.
    """

    minimum_domains: ClassVar[int] = 2
    """Fewest domains for which the rule is defined."""

    generator: torch.Generator | None = None
    """Source of randomness of the rules that draw; part of :meth:`state_dict`."""

    def __call__(self, gradients: Tensor) -> Tensor:
        """The update for stacked gradients of shape [K, *shape]."""
        if not isinstance(gradients, Tensor):
            raise TypeError(
                f"{self} expects a tensor of shape [K, *shape], one gradient a domain; found a "
                f"{type(gradients).__name__}. Put the gradients together with torch.stack."
            )
        if gradients.ndim == 0 or not gradients.is_floating_point():
            raise ValueError(
                f"{self} expects a floating-point tensor of shape [K, *shape], one gradient a "
                f"domain; found shape {list(gradients.shape)} of {gradients.dtype}."
            )
        self.require_domains(gradients.shape[0])
        return self._aggregate(gradients.detach()).to(gradients.dtype)

    @abstractmethod
    def _aggregate(self, gradients: Tensor) -> Tensor: ...

    def require_domains(self, count: int, which: str = "") -> None:
        """Raise ``ValueError`` if ``count`` domains are too few for the rule."""
        if count < self.minimum_domains:
            raise ValueError(
                f"{self} compares domains and needs at least {self.minimum_domains} of them in a "
                f"step; found {count}{which}. Draw batches that hold several domains, or use "
                f"Mean() where only one is left."
            )

    def _generator_on(self, device: torch.device) -> torch.Generator:
        """The rule's generator; without one, a generator with seed 0 is made on ``device``."""
        if self.generator is None:
            self.generator = torch.Generator(device).manual_seed(0)
        return self.generator

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold to go on with the same numbers: the generator's state."""
        if self.generator is None:
            return {}
        return {"generator": self.generator.get_state(), "device": str(self.generator.device)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            ValueError: the state is that of a generator on a device that is not there.
        """
        if not state:
            self.generator = None
            return
        if self.generator is None or str(self.generator.device) != state["device"]:
            try:
                self.generator = torch.Generator(state["device"])
            except RuntimeError as error:
                raise ValueError(
                    f"{self} was saved with a generator on {state['device']!r}, which this "
                    f"machine does not have; its random numbers cannot go on here."
                ) from error
        self.generator.set_state(state["generator"].cpu())

    def __repr__(self) -> str:
        options = (name for name in signature(type(self)).parameters if name != "generator")
        arguments = ", ".join(
            f"{name}={getattr(self, name)!r}" for name in options if hasattr(self, name)
        )
        return f"{type(self).__name__}({arguments})"


@dataclass(frozen=True, slots=True)
class Whole:
    """Of which tensor an update is a part, where tensors are spread over processes."""

    size: int
    """Components of the tensor."""
    part: slice
    """Where the update lies in it, as a vector."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """An update before its scale, and what the scale needs, component by component."""

    update: Tensor
    terms: tuple[Tensor, ...] = ()
    """Of the update's shape: the scale needs their sums over the rule's scope."""
    mask: Tensor | None = None
    """Of the update's shape: where ``finish`` has more to do than to scale."""

    def tallied(self) -> Tallied:
        """With the sums of the terms over all components."""
        return Tallied(self.update, self.tally(), self.mask)

    def tally(self) -> Tensor | None:
        """The sum of each term and the number of components; ``None`` without terms."""
        if not self.terms:
            return None
        sums = [term.sum() for term in self.terms]
        return torch.stack([*sums, sums[0].new_tensor(self.update.numel())])


@dataclass(frozen=True, slots=True)
class Tallied:
    """An update before its scale, and the sums over its components that the scale needs."""

    update: Tensor
    tally: Tensor | None = None
    """1-D: the sums of the proposal's terms, then the number of components. It adds up over the
    tensors of the rule's scope, and over parts of one tensor."""
    mask: Tensor | None = None
    """As the proposal's."""
    whole: Whole | None = None
    """What the update, then a vector, is a part of; ``None`` where it is all of a tensor."""


OverShards = Callable[[Tensor, Literal["sum", "max"]], Tensor]
"""Sums, or takes the maximum of, a tensor over the processes that share a model's parameters."""


class ElementwiseRule(Rule):
    """A rule whose update at a component depends on that component's statistics, up to a scale.

    A subclass names its ``statistics`` and writes :meth:`propose`. A rule with a scale also sets
    its ``scope``, names the terms of its sums in its proposal and writes :meth:`finish`. With one
    stacked tensor, that tensor is the scope; inside a model it is each parameter or all of them.
    """

    statistics: frozenset[Statistic]
    """Sufficient statistics; the engine collects these and no others."""

    scope: Scope = "component"

    @abstractmethod
    def propose(self, statistics: Statistics) -> Proposal:
        """The update of one tensor, before the scale."""

    def finish(self, proposal: Tallied, tally: Tensor) -> Tensor:
        """Apply the scale, given the tally summed over the rule's scope; may overwrite."""
        return proposal.update

    def updates(
        self,
        parameters: Iterable[Statistics],
        over_shards: OverShards | None = None,
        wholes: Iterable[Whole] = (),
    ) -> list[Tensor]:
        """The updates of all parameters of a model, from their statistics.

        Unless the scale is over the model, they are taken one at a time.

        Args:
            parameters: their statistics; of tensors spread over processes, those of this one's
                parts, as vectors.
            over_shards: sums a tensor over the processes, where there are several.
            wholes: what these parts are parts of.
        """
        if over_shards is not None:
            return self._updates_of_shards(parameters, over_shards, wholes)
        if self.scope == "model":
            return self.finish_together([self._tallied(statistics) for statistics in parameters])
        return [self.finish_alone(self._tallied(statistics)) for statistics in parameters]

    def _tallied(self, statistics: Statistics) -> Tallied:
        return self.propose(statistics).tallied()

    def _updates_of_shards(
        self, parameters: Iterable[Statistics], over_shards: OverShards, wholes: Iterable[Whole]
    ) -> list[Tensor]:
        proposals = [
            replace(self._tallied(statistics), whole=whole)
            for statistics, whole in zip(parameters, wholes, strict=True)
        ]
        tallies = [proposal.tally for proposal in proposals if proposal.tally is not None]
        if not tallies:
            return [proposal.update for proposal in proposals]
        totals = over_shards(torch.stack([tally.double() for tally in tallies]), "sum")
        if self.scope == "model":
            totals = totals.sum(0).expand_as(totals)
        return [
            self.finish(proposal, total.to(proposal.update))
            for proposal, total in zip(proposals, totals, strict=True)
        ]

    def finish_alone(self, proposal: Tallied) -> Tensor:
        """The update of one tensor, where its scale needs no other tensor."""
        if proposal.tally is None:
            return proposal.update
        return self.finish(proposal, proposal.tally)

    def finish_together(self, proposals: Sequence[Tallied]) -> list[Tensor]:
        """The updates of all tensors of a model, under one scale."""
        tallies = [proposal.tally for proposal in proposals if proposal.tally is not None]
        total = torch.stack([tally.to(tallies[0]) for tally in tallies]).sum(0)
        return [
            self.finish(proposal, total.to(tally))
            for proposal, tally in zip(proposals, tallies, strict=True)
        ]

    def _aggregate(self, gradients: Tensor) -> Tensor:
        return self.updates([statistics_of(gradients, self.statistics)])[0]


def alone(tensor: Tensor, _how: Literal["sum", "max"]) -> Tensor:
    """Over one process."""
    return tensor


class GramianRule(Rule):
    """A rule that combines the K gradients with weights read off their K×K matrix of products.

    A subclass writes :meth:`weights`. Inside a model the products run over all parameters.
    """

    @abstractmethod
    def weights(self, gramian: Tensor) -> Tensor:
        """The K weights, from the Gramian ``G Gᵀ``: [K, K] in float64 on the CPU; so are they."""

    def updates(
        self, parameters: Sequence[Tensor], over_shards: OverShards = alone
    ) -> list[Tensor]:
        """The updates of all parameters of a model, from their stacked gradients [K, *shape].

        Args:
            parameters: the stacks; of tensors spread over processes, this one's parts.
            over_shards: sums, or takes the maximum of, a tensor over the processes.
        """
        # In a user's autocast block, the products would be taken in half precision.
        with torch.autocast(parameters[0].device.type, enabled=False):
            return self._combined(parameters, over_shards)

    def _combined(self, parameters: Sequence[Tensor], over_shards: OverShards) -> list[Tensor]:
        rows = [stack.unsqueeze(-1).flatten(1) for stack in parameters]
        gramian, scales = over_shards(_products(rows), "sum"), None
        squares = gramian.diagonal()
        if not ((squares > SMALLEST_SQUARE) & (squares < LARGEST_SQUARE)).all():
            scales = _usable(over_shards(_largest(rows), "max"))
            rows = [row / scales.to(row).unsqueeze(1) for row in rows]
            gramian = over_shards(_products(rows), "sum") * torch.outer(scales, scales)
        weights = self.weights(gramian)
        if scales is not None:
            weights = weights * scales
        return [
            (weights.to(row) @ row).reshape(stack.shape[1:])
            for row, stack in zip(rows, parameters, strict=True)
        ]

    def _aggregate(self, gradients: Tensor) -> Tensor:
        return self.updates([gradients.to(accumulation_dtype(gradients.dtype))])[0]


SMALLEST_SQUARE, LARGEST_SQUARE = 1e-30, 1e30
"""Squared norms between which float32 products can be trusted; beyond, rows are scaled to 1."""


def _products(rows: Sequence[Tensor]) -> Tensor:
    """The Gramian over all parameters, [K, K] in float64 on the CPU."""
    products = [row @ row.T for row in rows]
    return torch.stack([p.to(products[0].device) for p in products]).cpu().double().sum(0)


def _largest(rows: Sequence[Tensor]) -> Tensor:
    """The largest size of a component in each domain."""
    sizes = [row.abs().amax(1).cpu().double() for row in rows if row.numel() > 0]
    if not sizes:
        return torch.zeros(len(rows[0]), dtype=torch.float64)
    return torch.stack(sizes).amax(0)


def _usable(largest: Tensor) -> Tensor:
    """1 where it is 0 or not finite."""
    return torch.where(largest.isfinite() & (largest > 0), largest, 1.0)
