"""The domains' gradients of several mixed batches, before they agree."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from domaingrad.rules.statistics import accumulation_dtype

from .batch import Batch
from .single_pass.gradients import UnitGradients


class Gathered:
    """Per domain: the number of samples so far, and the sum of their gradients."""

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self._sums: dict[int, dict[int, Tensor]] = {}

    def add(self, label: int, samples: int, means: Mapping[int, Tensor | None]) -> None:
        """Add the gradients of a mean loss over so many samples, by index of the parameter."""
        self.note(label, samples)
        for index, mean in means.items():
            if mean is not None:
                self.add_one(label, index, mean.to(accumulation_dtype(mean.dtype)) * samples)

    def note(self, label: int, samples: int) -> None:
        """Count samples of a domain."""
        self.counts[label] = self.counts.get(label, 0) + samples

    def add_one(self, label: int, index: int, total: Tensor) -> None:
        """Add the sum of a domain's gradients for one parameter."""
        sums = self._sums.setdefault(label, {})
        sums[index] = total if index not in sums else sums[index].add_(total)

    def mean_of(self, label: int, parameters: int) -> list[Tensor | None]:
        """The gradients of the mean loss over all samples of a domain."""
        sums = self._sums.get(label, {})
        means = {index: total / self.counts[label] for index, total in sums.items()}
        return [means.get(index) for index in range(parameters)]


class Gatherer:
    """Receives the gradients of one mixed batch.

    Args:
        gathered: where they go.
        batch: which domains there are.
    """

    def __init__(self, gathered: Gathered, batch: Batch) -> None:
        self._gathered = gathered
        self._found: list[tuple[int, int, Tensor]] = []
        self._batch = batch

    def receive(self, index: int, gradients: UnitGradients) -> Tensor | None:
        """Keep each domain's gradient."""
        stack = gradients.stack()
        stack = stack.to(accumulation_dtype(stack.dtype))
        for label, size, mean in zip(
            self._batch.labels, self._batch.sizes, stack.unbind(0), strict=True
        ):
            self._found.append((label, index, mean * size))
        return None

    def finish(self) -> dict[int, Tensor]:
        """Only a pass that came to its end counts."""
        for label, size in zip(self._batch.labels, self._batch.sizes, strict=True):
            self._gathered.note(label, size)
        for label, index, total in self._found:
            self._gathered.add_one(label, index, total)
        return {}
