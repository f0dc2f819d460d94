"""A rule over the K gradients of one tensor: one fused pass where a compiler is at hand."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from types import FunctionType
from typing import Any, Literal
from warnings import warn
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from domaingrad.rules import ElementwiseRule, Proposal
from domaingrad.rules.statistics import accumulation_dtype, statistics_of

from .running import RunningStatistics

Kernels = Literal["auto", "eager", "compiled"]

Reduced = tuple[Proposal, Tensor]
"""The proposal for some components, and the sum of their means: finite if all gradients are."""

COMPILE_FROM = 300_000
"""Components times domains from which ``"auto"`` compiles: below, a step is shorter than what a
compiled call saves (measured: benchmarks/reduction.py)."""

FOLDED_FROM = 2**16
"""Components from which folding one gradient after the other is faster than whole-stack sums."""

MOST_UNROLLED = 64
"""Domains up to which the fused loop is unrolled over them."""


class Reduction:
    """Apply an element-wise rule to stacked gradients, component by component.

    Args:
        rule: the rule.
        kernels: ``"eager"`` runs PyTorch's operations one after the other; ``"compiled"`` makes
            one loop of them by ``torch.compile``; ``"auto"`` compiles for large tensors where a
            compiler is found.
    """

    def __init__(self, rule: ElementwiseRule, kernels: Kernels) -> None:
        self._rule = rule
        self._kernels = kernels

    def propose(self, stack: Tensor, factors: Tensor | None) -> Reduced:
        """The proposal from gradients of shape [K, n], each times its factor; overwrites them."""
        if self.compiles(stack):
            try:
                update, tally, mask, total = _compiled(self._rule, len(stack))(stack, factors)
            except Exception as error:
                if self._kernels == "compiled":
                    raise
                warn(
                    f"torch.compile failed for {self._rule} ({type(error).__name__}: "
                    f"{str(error).splitlines()[0]}); going on with kernels='eager'.",
                    RuntimeWarning,
                    stacklevel=2,
                )
                self._kernels = "eager"
            else:
                return Proposal(update, tally, mask), total
        return self._eager(stack, factors)

    def compiles(self, stack: Tensor) -> bool:
        """Whether gradients like these go through one compiled loop, which leaves them alone."""
        if self._kernels == "eager" or len(stack) > MOST_UNROLLED:
            return False
        if self._kernels == "compiled":
            return True
        return stack.numel() >= COMPILE_FROM and compiler_found(stack.device)

    def _eager(self, stack: Tensor, factors: Tensor | None) -> Reduced:
        g = stack.to(accumulation_dtype(stack.dtype))
        if factors is not None:
            g = g * factors.to(g).unsqueeze(1)
        if g.shape[1] < FOLDED_FROM:
            statistics = statistics_of(g, self._rule.statistics | {"mean"})
        else:
            running = RunningStatistics(self._rule.statistics)
            for gradient in g.unbind(0):
                running.fold(gradient)
            statistics = running.statistics()
        total = statistics.mean.sum()
        return self._rule.propose(statistics), total


def compiler_found(device: torch.device) -> bool:
    """Whether ``torch.compile`` can be expected to work for a device."""
    return _compiler_found(device.type)


@cache
def _compiler_found(device_type: str) -> bool:
    if device_type == "cpu":
        return any(shutil.which(name) for name in ("c++", "g++", "clang++"))
    return find_spec("triton") is not None


Compiled = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor | None, Tensor | None, Tensor]]
_cache: WeakKeyDictionary[ElementwiseRule, dict[int, Compiled]] = WeakKeyDictionary()


def _compiled(rule: ElementwiseRule, count: int) -> Compiled:
    """The compiled reduction of a rule for a number of domains."""
    by_count = _cache.setdefault(rule, {})
    if count not in by_count:
        by_count[count] = torch.compile(
            _reduction(rule),
            dynamic=True,
            fullgraph=True,
            options={"unroll_reductions_threshold": MOST_UNROLLED},
        )
    return by_count[count]


def _reduction(rule: ElementwiseRule) -> Any:
    def reduce(
        stack: Tensor, factors: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
        stack.unbind(0)  # So the compiler learns K as a number, and unrolls it.
        g = stack.to(accumulation_dtype(stack.dtype))
        if factors is not None:
            g = g * factors.to(g).unsqueeze(1)
        statistics = statistics_of(g, rule.statistics | {"mean"})
        proposal = rule.propose(statistics)
        return proposal.update, proposal.tally, proposal.mask, statistics.mean.sum()

    # The compiler counts its versions by code object, and gives up after a few of them.
    code = reduce.__code__.replace(co_name=f"reduce_{type(rule).__name__}")
    return FunctionType(code, reduce.__globals__, "reduce", None, reduce.__closure__)
