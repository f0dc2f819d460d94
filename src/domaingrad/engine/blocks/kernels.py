"""An element-wise rule over [K, n]: one compiled loop where that pays, or operator by operator."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from domaingrad.rules.authoring import ElementwiseRule, Statistics
from domaingrad.rules.statistics import accumulation_dtype, statistics_of

from ..loops import MOST_UNROLLED, Loop
from .block import HOT

Kernels = Literal["auto", "eager", "compiled"]


@dataclass(frozen=True)
class Reduced:
    """What a rule proposes for some components."""

    update: Tensor
    """[n]; not finite where a gradient is not."""
    terms: tuple[Tensor, ...]
    """As the proposal's, [n] each; summed, [1], where asked for."""
    mask: Tensor | None


class Kernel:
    """Applies an element-wise rule to stacked gradients, up to its scale.

    Args:
        rule: the rule.
        kernels: ``"eager"`` runs PyTorch's operations one after the other; ``"compiled"`` makes
            one loop of them by ``torch.compile``; ``"auto"`` compiles for large tensors where a
            compiler is found.
    """

    def __init__(self, rule: ElementwiseRule, kernels: Kernels) -> None:
        self._rule = rule
        self._kernels = kernels
        self._loop = _loops.get(rule) or _loops.setdefault(rule, Loop(_summed(rule), str(rule)))

    def __call__(
        self, rows: Tensor, factors: Tensor | None, summed: bool
    ) -> tuple[Reduced, Tensor | None]:
        """The proposal, and the largest gradient of each domain where one may not be finite.

        Args:
            rows: the gradients, [K, n]; left as they are.
            factors: on the gradients of each domain.
            summed: whether the terms are wanted by their sums alone, as of one tensor.
        """
        if summed and self._compiles(rows):
            found = self._loop(rows, factors, required=self._kernels == "compiled")
            if found is not None:
                reduced, witness = found
                finite = rows.device.type == "cpu" and math.isfinite(witness.item())
                return Reduced(*reduced), None if finite else largest_of(rows)
        step = HOT if rows.device.type == "cpu" else rows.shape[1]
        parts, finite = [], rows.device.type == "cpu"
        for some in torch.split(rows, step, 1) if rows.shape[1] > step else [rows]:
            statistics = statistics_of(
                weighted(some, factors), self._rule.statistics | {"mean"}, counting(some)
            )
            part, is_finite = proposed(self._rule, statistics, summed)
            finite &= is_finite
            parts.append(part)
        return joined(parts, summed), None if finite else largest_of(rows)

    def _compiles(self, rows: Tensor) -> bool:
        """Whether gradients like these go through one compiled loop."""
        if self._kernels == "compiled":
            return rows.numel() > 0 and len(rows) <= MOST_UNROLLED
        return self._kernels == "auto" and self._loop.is_worth_it(rows)


def proposed(rule: ElementwiseRule, statistics: Statistics, summed: bool) -> tuple[Reduced, bool]:
    """What a rule proposes, with NaN wherever a gradient is not finite, whatever the rule hides.

    Returns:
        The proposal, and whether all gradients are known to be finite (on a CPU they are).
    """
    mean = statistics.mean
    finite = mean.device.type == "cpu" and math.isfinite(mean.sum().item())
    return Reduced(*_visible(rule, statistics, summed, finite)), finite


Visible = tuple[Tensor, tuple[Tensor, ...], Tensor | None]


def _visible(rule: ElementwiseRule, statistics: Statistics, summed: bool, finite: bool) -> Visible:
    """Update, terms and mask; what may not be finite is seen in the update."""
    mean, found = statistics.mean, rule.propose(statistics)
    update = found.update if finite else found.update + (mean - mean)
    terms = tuple(term.sum().view(1) for term in found.terms) if summed else found.terms
    return update, terms, found.mask


def joined(parts: list[Reduced], summed: bool) -> Reduced:
    """One proposal from those of components side by side."""
    if len(parts) == 1:
        return parts[0]
    columns = list(zip(*(part.terms for part in parts), strict=True))
    terms = [torch.stack(c).sum(0) if summed else torch.cat(c) for c in columns]
    masks = [part.mask for part in parts if part.mask is not None]
    return Reduced(
        torch.cat([part.update for part in parts]),
        tuple(terms),
        torch.cat(masks) if masks else None,
    )


def weighted(rows: Tensor, factors: Tensor | None) -> Tensor:
    """The gradients in the dtype in which they are summed, each times its factor."""
    g = rows.to(accumulation_dtype(rows.dtype))
    return g if factors is None else g * factors.to(g).unsqueeze(1)


def counting(rows: Tensor) -> torch.dtype | None:
    """The dtype for whole numbers: small integers on a CPU, elsewhere the gradients' own."""
    return None if rows.device.type == "cpu" else accumulation_dtype(rows.dtype)


def largest_of(rows: Tensor) -> Tensor:
    """The largest gradient of each domain, [K]."""
    dtype = accumulation_dtype(rows.dtype)
    if rows.shape[1] == 0:
        return rows.new_zeros(len(rows), dtype=dtype)
    if rows.device.type == "cpu":  # where a norm is several times slower
        return rows.abs().amax(1).to(dtype)
    return torch.linalg.vector_norm(rows, math.inf, 1, dtype=dtype)  # type: ignore[no-any-return]


_loops: WeakKeyDictionary[ElementwiseRule, Loop] = WeakKeyDictionary()


def _summed(
    rule: ElementwiseRule,
) -> Callable[[Tensor, Tensor | None], tuple[Visible, Tensor]]:
    def reduce(rows: Tensor, factors: Tensor | None) -> tuple[Visible, Tensor]:
        g = weighted(rows, factors)
        # In a compiled loop, small integers cost more than they save, and sums more than maxima.
        statistics = statistics_of(g, rule.statistics | {"mean"}, counting=g.dtype)
        found = _visible(rule, statistics, summed=True, finite=False)
        return found, statistics.mean.abs().amax()

    return reduce
