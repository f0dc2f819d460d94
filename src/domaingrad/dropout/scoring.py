"""How the components of the masked weights score on a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

from domaingrad.engine import SignalToNoise
from domaingrad.engine.batch import Batch
from domaingrad.engine.signal_to_noise import statistics_of_units
from domaingrad.rules.statistics import accumulation_dtype

from .layers import Target
from .processes import ALONE, Processes
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
    _bad: list[int] = field(default_factory=list, init=False)
    """Of the latest batch, the weights whose moments are not finite."""

    def scores(
        self,
        inputs: Any,
        loss_fn: Losses,
        size: int,
        domains: Batch | None,
        options: Mapping[str, Any],
        processes: Processes = ALONE,
    ) -> list[Tensor] | None:
        """One score a component; a weight that the losses do not depend on scores zero.

        ``None`` where the gradients over the units are not finite, or their squares are not.

        Args:
            inputs: the batch.
            loss_fn: from the model's outputs.
            size: number of samples.
            domains: which sample belongs to which; needed over domains.
            options: passed to the model as they are.
            processes: who has units, too.

        Raises:
            ValueError: fewer than two units.
        """
        if self.select == "random":
            return [self._drawn(target.parameter) for target in self.targets]
        weights = [target.parameter for target in self.targets]
        units, count = self._units(size, domains, processes)
        found = statistics_of_units(self.model, inputs, loss_fn, options, units, weights)
        names = {id(p): name for name, p in self.model.named_parameters()}
        moments = [found.get(names[id(target.parameter)]) for target in self.targets]
        if processes.count > 1:
            moments = self._over_all(moments, count, processes)
        if not self._finite(moments):
            return None
        return [self._score(t, each) for t, each in zip(self.targets, moments, strict=True)]

    def not_finite(self) -> str:
        """What to tell where there are no scores."""
        name = self.targets[self._bad[0]].name
        return (
            f"the gradients of {name!r} over the {self.over} are not finite, or their squares are "
            f"not, so nothing can be ranked by them. Look for losses that are infinite or NaN, "
            f"lower the learning rate, or give a GradScaler as scaler= under float16."
        )

    def _over_all(
        self, moments: Sequence[SignalToNoise | None], count: int, processes: Processes
    ) -> list[SignalToNoise | None]:
        """The moments over the units of all processes, from those over this one's."""
        own: list[Tensor] = []
        for target, each in zip(self.targets, moments, strict=True):
            if each is None:
                like = torch.zeros_like(target.parameter, dtype=_dtype(target))
                own += [like, like.clone()]
            else:
                own += [each.mean * count, each.mean_square * count]
        number = torch.tensor([float(count)], device=own[0].device, dtype=torch.float64)
        *sums, total = processes.sums([*own, number])
        total = total.squeeze()
        return [
            SignalToNoise(mean / total.to(mean), square / total.to(square))
            for mean, square in zip(sums[::2], sums[1::2], strict=True)
        ]

    def _drawn(self, parameter: nn.Parameter) -> Tensor:
        device = self.generator.device
        scores = torch.rand(parameter.shape, generator=self.generator, device=device)
        return scores.to(parameter.device)

    def _score(self, target: Target, moments: SignalToNoise | None) -> Tensor:
        if moments is None:
            return torch.zeros_like(target.parameter, dtype=_dtype(target))
        return score(self.select, moments)

    def _finite(self, moments: Sequence[SignalToNoise | None]) -> bool:
        """Whether all are; all are looked at together, so that one wait for the device will do."""
        seen = [(n, each.mean_square.sum()) for n, each in enumerate(moments) if each is not None]
        if not seen:
            return True
        sums = torch.stack([total.to(seen[0][1]) for _, total in seen]).tolist()
        self._bad[:] = [n for (n, _), s in zip(seen, sums, strict=True) if not math.isfinite(s)]
        return not self._bad

    def _units(self, size: int, domains: Batch | None, processes: Processes) -> tuple[Tensor, int]:
        """The unit of each sample, and the number of units."""
        units = torch.arange(size)
        if self.over == "micro-batches":
            units = units % self.micro_batches
        elif domains is not None and self.over == "domains":
            for index, rows in enumerate(domains.rows):
                units[rows.to(units.device)] = index
        count = len(torch.unique(units))
        if count * processes.count < 2:
            raise ValueError(
                f"the signal-to-noise ratio over {self.over} needs at least two of them in a "
                f"batch; found {count} in one of {size} sample(s)."
            )
        return units, count


def _dtype(target: Target) -> torch.dtype:
    return accumulation_dtype(target.parameter.dtype)
