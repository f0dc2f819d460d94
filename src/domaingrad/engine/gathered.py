"""The domains' gradients of several mixed batches, before they agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from domaingrad.rules.statistics import accumulation_dtype

from .batch import Batch
from .gradients import UnitGradients


class Gathered:
    """Per domain: the number of samples so far, and the sum of their gradients."""

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self._sums: dict[int, dict[nn.Parameter, Tensor]] = {}

    def add(self, label: int, samples: int, means: Mapping[nn.Parameter, Tensor | None]) -> None:
        """Add the gradients of a mean loss over so many samples."""
        self.note(label, samples)
        for parameter, mean in means.items():
            if mean is not None:
                self.add_one(label, parameter, mean.to(accumulation_dtype(mean.dtype)) * samples)

    def note(self, label: int, samples: int) -> None:
        """Count samples of a domain."""
        self.counts[label] = self.counts.get(label, 0) + samples

    def add_one(self, label: int, parameter: nn.Parameter, total: Tensor) -> None:
        """Add the sum of a domain's gradients for one parameter."""
        sums = self._sums.setdefault(label, {})
        sums[parameter] = total if parameter not in sums else sums[parameter].add_(total)

    def mean_of(self, label: int, parameters: Sequence[nn.Parameter]) -> list[Tensor | None]:
        """The gradients of the mean loss over all samples of a domain."""
        sums = self._sums.get(label, {})
        means = {parameter: total / self.counts[label] for parameter, total in sums.items()}
        return [means.get(parameter) for parameter in parameters]


class Gatherer:
    """Receives the gradients of one mixed batch.

    Args:
        gathered: where they go.
        batch: which domains there are.
        parameters: what is trained.
    """

    in_graph = None

    def __init__(
        self, gathered: Gathered, batch: Batch, parameters: Sequence[nn.Parameter]
    ) -> None:
        self._gathered = gathered
        self._parameters = parameters
        self._found: list[tuple[int, nn.Parameter, Tensor]] = []
        self._batch = batch

    def receive(self, index: int, gradients: UnitGradients) -> None:
        """Keep each domain's gradient."""
        stack = gradients.stack()
        stack = stack.to(accumulation_dtype(stack.dtype))
        for label, size, mean in zip(
            self._batch.labels, self._batch.sizes, stack.unbind(0), strict=True
        ):
            self._found.append((label, self._parameters[index], mean * size))

    def finish(self) -> dict[int, Tensor]:
        """Only a pass that came to its end counts."""
        for label, size in zip(self._batch.labels, self._batch.sizes, strict=True):
            self._gathered.note(label, size)
        for label, parameter, total in self._found:
            self._gathered.add_one(label, parameter, total)
        return {}
