"""What a rule is: K domains' gradients in, one update out. Rules know no model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from .statistics import Statistic, Statistics, accumulation_dtype, statistics_of
from .transfer import to_device

Scope = Literal["component", "tensor", "model"]
"""Over what a rule takes its scale: nothing, one parameter tensor, or the whole model."""


class Rule(ABC):
    """Map the gradients of K domains to one update.

    ``rule(G)`` takes a tensor of shape [K, *shape] and returns one of shape [*shape], same
    dtype and device; half precision is summed in float32. This is also what TorchJD calls an
    aggregator of a [K, P] matrix. Inside a model the engine feeds the rule instead.

    A rule belongs to one of three families: :class:`ElementwiseRule`, :class:`StackRule` or
    :class:`GramianRule`.
    """

    minimum_domains: ClassVar[int] = 2
    """Fewest domains for which the rule is defined."""

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

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold to go on with the same numbers."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            ValueError: the state is that of another rule.
        """
        if state:
            raise ValueError(
                f"{self} keeps no state; found one with {sorted(state)}. Load it into a rule of "
                f"the kind that it was saved from."
            )

    def __repr__(self) -> str:
        options = (name for name in signature(type(self)).parameters if name != "generator")
        arguments = ", ".join(
            f"{name}={getattr(self, name)!r}" for name in options if hasattr(self, name)
        )
        return f"{type(self).__name__}({arguments})"


class RandomRule(Rule):
    """A rule that draws random numbers, from a generator of its own on any device."""

    generator: torch.Generator | None = None
    """Their source, part of :meth:`state_dict`; never PyTorch's global one."""

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
    whole: Whole | None = None
    """What the update, then a vector, is a part of; ``None`` where it is all of a tensor."""

    def tally(self) -> Tensor | None:
        """The sum of each term and the number of components, 1-D; ``None`` without terms.

        It adds up over the tensors of the rule's scope, and over parts of one tensor.
        """
        if not self.terms:
            return None
        sums = [term.sum() for term in self.terms]
        return torch.stack([*sums, torch.full_like(sums[0], self.update.numel())])


Reduce = Callable[[Tensor, Literal["sum", "max"]], Tensor]
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

    draws: ClassVar[bool] = False
    """Whether :meth:`finish` draws random numbers: then it is called for one tensor at a time, in
    the order of the model, so that the same seed gives the same numbers however a model is trained.
    """

    @abstractmethod
    def propose(self, statistics: Statistics) -> Proposal:
        """The update of one tensor, or of several side by side, before the scale."""

    def finish(self, proposal: Proposal, tally: Tensor) -> Tensor:
        """Apply the scale, given the tally over the rule's scope; may overwrite.

        Args:
            proposal: what was proposed; its terms are gone into the tally.
            tally: [T + 1] or, where several tensors lie side by side, [T + 1, n], for each
                component that of its tensor.
        """
        return proposal.update

    def update(self, statistics: Statistics) -> Tensor:
        """The update of one tensor that is the whole scope."""
        proposal = self.propose(statistics)
        tally = proposal.tally()
        return proposal.update if tally is None else self.finish(proposal, tally)

    def _aggregate(self, gradients: Tensor) -> Tensor:
        return self.update(statistics_of(gradients, self.statistics))


class StackRule(Rule):
    """A rule that sees all K values of a component, and no other component.

    A subclass writes :meth:`combine`. Inside a model, the K gradients of some parameters at a time
    are kept; domains that pass one after the other keep K gradients of the whole model.
    """

    @abstractmethod
    def combine(self, gradients: Tensor) -> Tensor:
        """The update [n] from gradients [K, n]; a non-finite value must show in it."""

    def _aggregate(self, gradients: Tensor) -> Tensor:
        g = gradients.to(accumulation_dtype(gradients.dtype))
        return self.combine(g.reshape(len(g), -1)).reshape(g.shape[1:])


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

    def weigh(self, rows: Sequence[Tensor], reduce: Reduce = alone) -> Weights:
        """The K weights.

        Args:
            rows: the gradients, [K, n] each, in parts.
            reduce: sums, or takes the maximum of, a tensor over processes that have other parts.
        """
        # In a user's autocast block, the products would be taken in half precision.
        with torch.autocast(rows[0].device.type, enabled=False):
            gramian = reduce(_products(rows), "sum")
            squares = gramian.diagonal()
            if ((squares > SMALLEST_SQUARE) & (squares < LARGEST_SQUARE)).all():
                return Weights(self.weights(gramian))
            largest = reduce(_largest(rows), "max")
            scales = torch.where(largest.isfinite() & (largest > 0), largest, 1.0)
            scaled = [row / scales.to(row).unsqueeze(1) for row in rows]
            gramian = reduce(_products(scaled), "sum") * torch.outer(scales, scales)
            return Weights(self.weights(gramian), scales, largest.isfinite())

    def _aggregate(self, gradients: Tensor) -> Tensor:
        g = gradients.to(accumulation_dtype(gradients.dtype))
        rows = g.reshape(len(g), -1)
        return self.weigh([rows]).sum_of(rows).reshape(g.shape[1:])


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of K domains' gradients, on the CPU."""

    values: Tensor
    scales: Tensor | None = None
    """What the gradients are divided by first, and the weights times, lest they leave the range."""
    finite: Tensor | None = None
    """Whose gradients are finite, [K]; ``None`` if all are."""

    def sum_of(self, rows: Tensor) -> Tensor:
        """Σ_e w_e g_e, [n], from gradients [K, n], in full precision whatever autocast says."""
        weights = self.values
        if self.scales is not None:
            weights, rows = weights * self.scales, rows / self.scales.to(rows).unsqueeze(1)
        with torch.autocast(rows.device.type, enabled=False):
            return to_device(weights.to(rows.dtype), rows.device) @ rows


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
