"""How the components of the masked weights score on a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

from domaingrad.engine import SignalToNoise
from domaingrad.engine.batch import Batch
from domaingrad.engine.signal_to_noise import statistics_of_units
from domaingrad.rules.statistics import accumulation_dtype

from .layers import Target
from .ranking import Select, score

Over = Literal["samples", "domains", "micro-batches"]
"""The units whose gradients are signal and noise."""

Losses = Callable[[Any], Tensor]
"""From the model's outputs for N samples to one loss each, [N]."""


@dataclass(frozen=True)
class Scoring:
    """What the components of a model's weights are ranked by.

    Args:
        model: the model.
        targets: the weights.
        select: by what.
        over: over which units.
        micro_batches: their number.
        generator: for ``select="random"``.
    """

    model: nn.Module
    targets: Sequence[Target]
    select: Select
    over: Over
    micro_batches: int
    generator: Generator

    def scores(
        self,
        inputs: Any,
        loss_fn: Losses,
        size: int,
        domains: Batch | None,
        options: Mapping[str, Any],
    ) -> list[Tensor]:
        """One score a component; a weight that the losses do not depend on scores zero.

        Args:
            inputs: the batch.
            loss_fn: from the model's outputs.
            size: number of samples.
            domains: which sample belongs to which; needed over domains.
            options: passed to the model as they are.

        Raises:
            ValueError: fewer than two units, or gradients that are not finite.
        """
        if self.select == "random":
            return [self._drawn(target.parameter) for target in self.targets]
        weights = [target.parameter for target in self.targets]
        units = self._units(size, domains)
        found = statistics_of_units(self.model, inputs, loss_fn, options, units, weights)
        names = {id(p): name for name, p in self.model.named_parameters()}
        moments = [found.get(names[id(target.parameter)]) for target in self.targets]
        self._require_finite(moments)
        return [self._score(t, each) for t, each in zip(self.targets, moments, strict=True)]

    def _drawn(self, parameter: nn.Parameter) -> Tensor:
        device = self.generator.device
        scores = torch.rand(parameter.shape, generator=self.generator, device=device)
        return scores.to(parameter.device)

    def _score(self, target: Target, moments: SignalToNoise | None) -> Tensor:
        if moments is None:
            dtype = accumulation_dtype(target.parameter.dtype)
            return torch.zeros_like(target.parameter, dtype=dtype)
        return score(self.select, moments)

    def _require_finite(self, moments: Sequence[SignalToNoise | None]) -> None:
        """Look at all weights' moments at once: the device is waited for one time."""
        seen = [
            (t, m.mean_square.sum())
            for t, m in zip(self.targets, moments, strict=True)
            if m is not None
        ]
        if not seen:
            return
        sums = torch.stack([total.to(seen[0][1]) for _, total in seen])
        for (target, _), total in zip(seen, sums.tolist(), strict=True):
            if not math.isfinite(total):
                raise ValueError(
                    f"the gradients of {target.name!r} over the {self.over} are not finite, or "
                    f"their squares are not, so nothing can be ranked by them. Look for losses "
                    f"that are infinite or NaN, lower the learning rate, or use bfloat16 in place "
                    f"of float16."
                )

    def _units(self, size: int, domains: Batch | None) -> Tensor:
        """The unit of each sample."""
        units = torch.arange(size)
        if self.over == "micro-batches":
            units = units % self.micro_batches
        elif domains is not None and self.over == "domains":
            for index, rows in enumerate(domains.rows):
                units[rows.to(units.device)] = index
        count = len(torch.unique(units))
        if count < 2:
            raise ValueError(
                f"the signal-to-noise ratio over {self.over} needs at least two of them in a "
                f"batch; found {count} in one of {size} sample(s)."
            )
        return units
