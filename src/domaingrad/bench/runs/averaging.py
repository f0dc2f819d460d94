"""Averages of a model's weights over training, for any method: uniform, exponential, SWAD."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

Average = Literal["none", "uniform", "ema", "swad"]
"""Which weights of a run are evaluated: the last, the mean from a step on, an exponential moving
average, or SWAD's mean over the valley of the validation loss."""

CONVERGE, TOLERANCE = 3, 6
"""Segments of SWAD's two windows, as in the paper."""

COPIES: dict[Average, int] = {"none": 0, "uniform": 1, "ema": 1, "swad": TOLERANCE + 1}
"""Models that a checkpoint holds for it."""

Weights = dict[str, Tensor]
OverProcesses = Callable[[nn.Module], None]
"""Gives a model's running statistics their mean over all processes; a collective call."""


class Averaging(ABC):
    """An average of the weights of what a method predicts by; training knows nothing of it.

    Parameters and floating-point buffers are averaged, so BatchNorm's running statistics are the
    mean of those that there were (ours: arXiv 2102.08604 passes over the data again, which changes
    nothing for frozen ones); buffers of whole numbers are those of the last step.

    Args:
        model: whose weights are averaged; it stays as it is, but inside of :meth:`applied`.
        over_processes: of several processes; ``None`` for one.
    """

    def __init__(self, model: nn.Module, over_processes: OverProcesses | None = None) -> None:
        self.model, self._over_processes = model, over_processes

    @abstractmethod
    def step(self) -> None:
        """Take in the weights after a step."""

    @abstractmethod
    def validated(self, loss: float) -> None:
        """Hear the sources' mean validation loss of the model as it is, at each checkpoint."""

    @abstractmethod
    def weights(self) -> Weights | None:
        """The average, if there is one yet."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """All of it."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what :meth:`state_dict` gave."""

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside, and its own again outside."""
        average = self.weights()
        if average is None:
            yield
            return
        own = {name: tensor.clone() for name, tensor in _averaged(self.model).items()}
        _copy(self.model, average)
        try:
            yield
        finally:
            _copy(self.model, own)

    def _equal_on_processes(self, weights: Weights) -> Weights:
        """With the mean of all processes' running statistics."""
        if self._over_processes is None:
            return weights
        own = {name: tensor.clone() for name, tensor in _averaged(self.model).items()}
        _copy(self.model, weights)
        self._over_processes(self.model)
        found = {name: tensor.clone() for name, tensor in _averaged(self.model).items()}
        _copy(self.model, own)
        return found


class RunningMean(Averaging):
    """θ̄ ← θ̄ + s·(θ − θ̄) after each step from one on, which θ̄ is at first.

    s = 1/t at the t-th of them gives the uniform mean (MA, arXiv 2110.10832), s = 1 − ρ the
    exponential moving average.

    Args:
        model: as in :class:`Averaging`.
        begin: steps before it begins.
        decay: ρ; ``None`` for the uniform mean.
        over_processes: as in :class:`Averaging`.
    """

    def __init__(
        self,
        model: nn.Module,
        begin: int,
        decay: float | None,
        over_processes: OverProcesses | None = None,
    ) -> None:
        super().__init__(model, over_processes)
        self._begin, self._decay = begin, decay
        self._steps = 0
        self._mean: Weights | None = None

    def step(self) -> None:
        """Take in the weights after a step."""
        self._steps += 1
        taken = self._steps - self._begin
        if taken > 0:
            share = 1 / taken if self._decay is None else 1 - self._decay
            self._mean = _moved(self._mean, self.model, share)

    def validated(self, loss: float) -> None:
        """Make the running statistics equal on all processes, as those of the model are then."""
        if self._mean is not None:
            self._mean = self._equal_on_processes(self._mean)

    def weights(self) -> Weights | None:
        """The average, once it has begun."""
        return self._mean

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return {"steps": self._steps, "mean": self._mean}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what :meth:`state_dict` gave."""
        self._steps, self._mean = state["steps"], _onto(self.model, state["mean"])


class SWAD(Averaging):
    """The mean over the segments in the valley of the validation loss (arXiv 2102.08604, §3.2).

    A segment is the mean of all steps' weights from one checkpoint to the next; all segments weigh
    the same. At a checkpoint :meth:`weights` are what SWAD comes to if training ends there; before
    the valley has begun, the last segment. As meant: the authors' code takes the first segment
    twice where it goes back before it. Training goes on after the valley (ours: nothing is added).

    Args:
        model: as in :class:`Averaging`.
        ratio: r of :func:`valley`.
        over_processes: as in :class:`Averaging`.
    """

    def __init__(
        self,
        model: nn.Module,
        ratio: float,
        over_processes: OverProcesses | None = None,
    ) -> None:
        super().__init__(model, over_processes)
        self._ratio = ratio
        self._steps = 0
        self._segment: Weights | None = None
        self._losses: list[float] = []
        self._recent: list[Weights] = []
        """The last segments, at most TOLERANCE."""
        self._before: Weights | None = None
        """Mean of the valley's segments that are no longer among these."""
        self._count = 0
        """How many those are."""

    def step(self) -> None:
        """Take in the weights after a step."""
        self._steps += 1
        self._segment = _moved(self._segment, self.model, 1 / self._steps)

    def validated(self, loss: float) -> None:
        """End a segment."""
        assert self._segment is not None
        self._losses.append(loss)
        self._recent.append(self._equal_on_processes(self._segment))
        self._segment, self._steps = None, 0
        if len(self._recent) > TOLERANCE:
            # What leaves the window is decided: whether it is in the valley changes no more.
            left = self._recent.pop(0)
            place = len(self._losses) - TOLERANCE - 1
            found = valley(self._losses, CONVERGE, TOLERANCE, self._ratio)
            if found is not None and place in found:
                self._count += 1
                self._before = _toward(self._before, left, 1 / self._count)

    def weights(self) -> Weights | None:
        """The mean over the valley so far; the last segment before it has begun."""
        if not self._recent:
            return None
        found = valley(self._losses, CONVERGE, TOLERANCE, self._ratio)
        if found is None:
            return self._recent[-1]
        mean, count = self._before, self._count
        first = len(self._losses) - len(self._recent)
        for place, segment in enumerate(self._recent, start=first):
            if place in found:
                count += 1
                mean = _toward(mean, segment, 1 / count)
        return mean

    def state_dict(self) -> dict[str, Any]:
        """All of it, at a checkpoint."""
        return {
            "losses": self._losses,
            "recent": self._recent,
            "before": self._before,
            "count": self._count,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what :meth:`state_dict` gave."""
        self._losses, self._count = list(state["losses"]), state["count"]
        self._recent = [_onto(self.model, each) for each in state["recent"]]
        self._before = _onto(self.model, state["before"])


def valley(losses: Sequence[float], converge: int, tolerance: int, ratio: float) -> range | None:
    """Which segments SWAD averages (arXiv 2102.08604, algorithm 1); ``None`` before it begins.

    It begins with the first segment s whose loss is the least of s … s + converge − 1; the
    threshold is (1 + ratio) times the mean of these. Segments before s, back to
    s + converge − tolerance, belong to it while their loss is not above the threshold; a segment
    after s does while the least loss of it and the following tolerance − 1 is not, or of as many
    as there are.

    Args:
        losses: of the validation at the end of each segment.
        converge: N_s.
        tolerance: N_e.
        ratio: r.

    >>> valley([5.0, 2.0, 1.0, 1.1, 1.2, 1.6, 1.7, 1.7, 1.7], converge=3, tolerance=3, ratio=0.3)
    range(2, 5)
    """
    starts = range(len(losses) - converge + 1)
    begin = next((s for s in starts if losses[s] == min(losses[s : s + converge])), None)
    if begin is None:
        return None
    threshold = (1 + ratio) * sum(losses[begin : begin + converge]) / converge
    first, last = begin, begin
    while first > max(0, begin + converge - tolerance) and losses[first - 1] <= threshold:
        first -= 1
    while last + 1 < len(losses) and min(losses[last + 1 :][:tolerance]) <= threshold:
        last += 1
    return range(first, last + 1)


def averaging_of(
    average: Average,
    model: nn.Module,
    over_processes: OverProcesses | None = None,
    *,
    begin: int,
    decay: float,
    ratio: float,
) -> Averaging | None:
    """The average that settings name."""
    match average:
        case "none":
            return None
        case "swad":
            return SWAD(model, ratio, over_processes)
        case _:
            rho = decay if average == "ema" else None
            return RunningMean(model, begin, rho, over_processes)


def _averaged(model: nn.Module) -> Weights:
    """The tensors of a model that are averaged, as they are."""
    state = model.state_dict()
    return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}


@torch.no_grad()
def _copy(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    for name, tensor in _averaged(model).items():
        tensor.copy_(weights[name])


def _moved(mean: Weights | None, model: nn.Module, share: float) -> Weights:
    return _toward(mean, _averaged(model), share)


@torch.no_grad()
def _toward(mean: Weights | None, weights: Mapping[str, Tensor], share: float) -> Weights:
    """Mean + share · (weights − mean); copies of the weights where there is no mean yet."""
    if mean is None:
        return {name: tensor.clone() for name, tensor in weights.items()}
    names = list(weights)
    # All tensors in a few kernels.
    moved = torch._foreach_lerp([mean[n] for n in names], [weights[n] for n in names], share)
    return dict(zip(names, moved, strict=True))


def _onto(model: nn.Module, weights: Mapping[str, Tensor] | None) -> Any:
    """Weights that were loaded, where the model's are."""
    own = _averaged(model)
    return weights and {name: tensor.to(own[name]) for name, tensor in weights.items()}
