"""What trains one network by one method, on one of three levels."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import chain
from operator import add
from typing import Any, ClassVar, Generic, Protocol, TypeVar, cast

import torch
from torch import Generator, Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from domaingrad.bench.models import Network, Predictor

Batches = Mapping[str, tuple[Tensor, Tensor]]
"""Inputs and labels of each source domain for one step; this process's part of them."""
H_co = TypeVar("H_co", covariant=True)
"""A method, as its learner knows it."""


class Pooled(dict[str, tuple[Tensor, Tensor]]):
    """Batches that are parts of one piece.

    Args:
        names: of the domains.
        inputs: [K, n, ...].
        labels: [K, n].
    """

    def __init__(self, names: Sequence[str], inputs: Tensor, labels: Tensor) -> None:
        super().__init__(
            zip(names, zip(inputs.unbind(), labels.unbind(), strict=True), strict=True)
        )
        self.whole = inputs.flatten(0, 1), labels.flatten(0, 1)


class Processes(Protocol):
    """The processes that train one network together; one alone changes nothing."""

    world: int
    """How many there are."""

    def wrapped(self, model: nn.Module) -> nn.Module:
        """In DistributedDataParallel, if there are several processes."""

    def average_gradients(self, parameters: Iterable[nn.Parameter], samples: int) -> None:
        """Mean of all processes' gradients, weighted by their numbers of samples."""


class MakesOptimizers(Protocol):
    """The run's recipe: which optimizer, how fast, by which schedule."""

    def __call__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        betas: tuple[float, float] | None = None,
    ) -> Optimizer:
        """An optimizer of these parameters, by the recipe where nothing else is given."""


@dataclass(frozen=True)
class Amp:
    """Steps with the loss scaling of fp16, which changes nothing in other precisions, and clipping.

    Args:
        scaler: of losses.
        clip_norm: the norm that the gradient of an optimizer's parameters does not exceed in a
            step.
    """

    scaler: GradScaler
    clip_norm: float | None = None

    def scale(self, loss: Tensor) -> Tensor:
        """A loss before its backward pass."""
        return self.scaler.scale(loss)

    def step(self, optimizer: Optimizer) -> None:
        """A step with the clipped gradient, unless one has overflown."""
        if self.clip_norm is not None:
            if self.scaler.is_enabled():
                self.scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(_parameters(optimizer), self.clip_norm)
        self.scaler.step(optimizer)

    def unscaled(self, gradients: list[Tensor]) -> list[Tensor]:
        """Gradients of a scaled loss as they are."""
        if not self.scaler.is_enabled():
            return gradients
        return [gradient / self.scaler.get_scale() for gradient in gradients]

    def between_steps(self) -> None:
        """Between two steps of one update; after the last, the run does it."""
        if self.scaler.is_enabled():
            self.scaler.update()


@dataclass(frozen=True)
class Setup:
    """All that a learner gets of the run that it is for."""

    network: Network
    domains: tuple[str, ...]
    """Names of the source domains, in the order of the batches."""
    steps: int
    loss: Callable[[Tensor, Tensor], Tensor]
    """Outputs and labels to one loss a sample, shape [n]."""
    optimizer: MakesOptimizers
    amp: Amp
    generator: Generator
    """Of whatever the method draws; the run keeps its state."""
    processes: Processes
    outputs: int
    """Width of the outputs: the number of classes, or 1."""
    class_weights: Tensor | None = None
    """By which ``loss`` weighs samples by their class, if it does."""
    counted: Tensor | None = None
    """[N], 1 for a sample of a step and 0 for padding; ``None`` where there is none."""


class Stateful(Protocol):
    """What has a state to be kept."""

    def state_dict(self) -> dict[str, Any]:
        """All of it."""

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Put it back."""


@dataclass(frozen=True)
class Validation:
    """How the network does on a source domain's validation split."""

    score: float
    loss: float
    """Mean over the samples."""


class NonFiniteTermWarning(UserWarning):
    """A term of an objective is not finite: which."""


class Terms:
    """Terms of the last objective, and which of them was not finite first; all on their device."""

    def __init__(self) -> None:
        self._last: dict[str, Tensor] = {}
        self._failed: Tensor | None = None

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Those of an update."""
        known = self._last.keys() == terms.keys()
        self._last = {name: value.detach() for name, value in terms.items()}
        bad = ~torch.stack(list(self._last.values()), -1).isfinite()
        failed = self._failed if known and self._failed is not None else bad
        self._failed = torch.where(failed.any(-1, keepdim=True), failed, bad)

    @classmethod
    def together(cls, each: Sequence[Terms]) -> Terms:
        """Of several runs, whose terms are [R]; new ones, where some have none yet."""
        made = cls()
        failed = [own._failed for own in each if own._failed is not None]
        if len(failed) == len(each):
            made._last = {
                name: torch.stack([own._last[name] for own in each]) for name in each[0]._last
            }
            made._failed = torch.stack(failed)
        return made

    def of(self, run: int) -> Terms:
        """Those of one of several runs."""
        made = Terms()
        if self._failed is not None:
            made._last = {name: value[run] for name, value in self._last.items()}
            made._failed = self._failed[run]
        return made

    def failed(self) -> list[str]:
        """Names of those that were not finite when the first of them was not."""
        if self._failed is None:
            return []
        return [name for name, bad in zip(self._last, self._failed.tolist(), strict=True) if bad]

    def finite(self) -> dict[str, float]:
        """Values that are."""
        values = {name: value.item() for name, value in self._last.items()}
        return {name: value for name, value in values.items() if math.isfinite(value)}


class Learner(Generic[H_co]):
    """Trains a network; a subclass overrides what its method does otherwise.

    On one of three levels: :meth:`objective` (a loss of all domains' batches), :meth:`backward`
    (the gradients of a step) or :meth:`update` (the whole step). :meth:`build` makes what there is
    beside the network. Modules and optimizers among the attributes are kept in checkpoints, also in
    lists and dicts, and so is what :meth:`keep` was told of. ``self.optimizer`` trains every
    parameter of every module among the attributes that no other optimizer has.

    Args:
        setup: the run.
        hp: the method with its hyper-parameters.
    """

    stacks: ClassVar[bool] = False
    """Whether :meth:`objective` may be taken of many runs at once, by ``torch.func.vmap``: it is a
    function of the network, the batches, what is kept, :meth:`weight` and numbers of ``hp`` alone,
    and takes means over samples by :class:`~domaingrad.bench.methods.passes.Members`."""

    def __init__(self, setup: Setup, hp: H_co) -> None:
        self.setup, self.hp, self.network = setup, hp, setup.network
        self.step = 0
        """Updates done; the run counts them."""
        self.kept: list[str] = []
        """Names of what was declared by :meth:`keep`."""
        self.terms = Terms()
        """Of the objective, for :meth:`metrics`."""
        self.build()
        device = next(self.network.parameters()).device
        for part in self._parts().values():
            if isinstance(part, nn.Module):
                part.to(device)
        for name in self.kept:
            setattr(self, name, _moved(getattr(self, name), device))
        taken = {id(p) for optimizer in self.optimizers() for p in _parameters(optimizer)}
        modules = [part for part in self._parts().values() if isinstance(part, nn.Module)]
        every = {id(p): p for p in chain.from_iterable(m.parameters() for m in modules)}
        left = [p for key, p in every.items() if key not in taken and p.requires_grad]
        if left:
            self.optimizer = setup.optimizer(left)
        self.ready()
        self._numbers = {name: value for name, value in vars(self).items() if _is_number(value)}

    def build(self) -> None:
        """Make what there is beside the network; :meth:`keep` what changes."""

    def ready(self) -> None:
        """The optimizers are there, and everything is on its device."""

    def keep(self, **state: Any) -> None:
        """Attributes with their first values, which checkpoints keep: tensors, numbers, lists."""
        for name, value in state.items():
            setattr(self, name, value)
            self.kept.append(name)

    def weight(self) -> float:
        """Of what an objective adds to the risks, in this update."""
        return 0.0

    def coming(self) -> None:
        """An update is coming: what is to happen before it, as an optimizer that begins anew."""

    def objective(self, batches: Batches) -> Tensor:
        """The loss of a step; for several processes, a mean over this one's samples."""
        raise NotImplementedError(
            f"{type(self).__name__} has to override objective, backward or update."
        )

    def backward(self, batches: Batches) -> Tensor:
        """Leave a step's gradients in ``.grad``, scaled by ``setup.amp``; return its mean loss."""
        loss = self.objective(batches)
        torch.autograd.backward(self.setup.amp.scale(loss))
        samples = sum(len(y) for _, y in batches.values())
        self.setup.processes.average_gradients(self.network.parameters(), samples)
        return loss.detach()

    def update(self, batches: Batches) -> Tensor:
        """A whole step; return its mean loss."""
        self.coming()
        loss = self.backward(batches)
        self.setup.amp.step(self.optimizer)
        self.optimizer.zero_grad()
        return loss

    def validated(self, validation: Mapping[str, Validation]) -> None:
        """Hear, at each checkpoint, how the network does on each source's validation split."""

    def predictor(self) -> Network | Predictor:
        """What is evaluated, selected and saved: the network, or another one."""
        return self.network

    def total(self, **terms: Tensor) -> Tensor:
        """The sum of an objective's terms, scalars; :meth:`metrics` tells them by name."""
        self.terms.add(terms)
        return reduce(add, terms.values())

    def metrics(self) -> Mapping[str, float]:
        """What the method itself has to tell at a checkpoint: its terms, a learned ratio.

        Warns of a term that is not finite, by name: of several, of the first.
        """
        if failed := self.terms.failed():
            told = f"{' and '.join(failed)} of the objective of {type(self).__name__}"
            warnings.warn(
                f"{told} became not finite first, so nothing is learned any more; use a smaller "
                f"learning rate or weight.",
                NonFiniteTermWarning,
                stacklevel=2,
            )
        return self.terms.finite()

    def take(self, loss: Tensor, *optimizers: Optimizer) -> None:
        """A step of some of the optimizers on a loss of its own; all gradients are zero after."""
        torch.autograd.backward(self.setup.amp.scale(loss))
        for each in optimizers:
            self.setup.amp.step(each)
        for each in self.optimizers():
            each.zero_grad()

    def restart(self, optimizer: Optimizer) -> None:
        """Forget an optimizer's moments, as a fresh one would; schedule and hooks stay."""
        optimizer.state.clear()

    def optimizers(self) -> list[Optimizer]:
        """All among the attributes."""
        return [part for part in self._parts().values() if isinstance(part, Optimizer)]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds.

        Raises:
            TypeError: an attribute has changed, or is a tensor, and was not declared by
                :meth:`keep`.
        """
        self._require_declared()
        return {
            "step": self.step,
            "kept": {name: getattr(self, name) for name in self.kept},
            "parts": {name: part.state_dict() for name, part in self._parts().items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what :meth:`state_dict` gave."""
        self.step = state["step"]
        device = next(self.network.parameters()).device
        for name, value in state["kept"].items():
            setattr(self, name, _moved(value, device))
        for name, part in self._parts().items():
            part.load_state_dict(state["parts"][name])

    def _parts(self) -> dict[str, Stateful]:
        """Everything stateful among the attributes, by its place."""
        return {
            place: part
            for name, value in vars(self).items()
            if name not in ("setup", "hp")
            for place, part in _stateful(name, value)
        }

    def _require_declared(self) -> None:
        undeclared = [
            name
            for name, value in vars(self).items()
            if name not in ("setup", "hp", "step", "_numbers", *self.kept)
            and (_holds_tensor(value) or self._numbers.get(name, value) != value)
        ]
        if undeclared:
            raise TypeError(
                f"{type(self).__name__} has state that no checkpoint would hold: "
                f"{', '.join(undeclared)}. Declare it in build() by self.keep(NAME=VALUE)."
            )


def pooled(batches: Batches) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, labels and the domain of each sample, counted from 0, of all domains together."""
    inputs, labels = in_one_piece(batches)
    # Made where it is used: copies from the host would wait.
    domains = [
        torch.full((len(y),), number, device=y.device)
        for number, (_, y) in enumerate(batches.values())
    ]
    return inputs, labels, torch.cat(domains)


def in_one_piece(batches: Batches) -> tuple[Tensor, Tensor]:
    """Inputs and labels of all domains together."""
    if isinstance(batches, Pooled):
        return batches.whole
    inputs, labels = (torch.cat(each) for each in zip(*batches.values(), strict=True))
    return inputs, labels


def by_domain(values: Tensor, batches: Batches) -> tuple[Tensor, ...]:
    """Rows of pooled samples, domain by domain."""
    sizes = [len(y) for _, y in batches.values()]
    parts: tuple[Tensor, ...] = values.split(sizes)  # type: ignore[no-untyped-call]
    return parts


def mean_over_processes(processes: Processes, values: Tensor, samples: int) -> Tensor:
    """The mean of what each process has, weighted by its samples; the same values on all."""
    if processes.world == 1:
        return values
    carrier = nn.Parameter(values.detach().clone())
    carrier.grad = values.detach().clone()
    processes.average_gradients([carrier], samples)
    return carrier.grad


def _stateful(place: str, value: object) -> Iterator[tuple[str, Stateful]]:
    # By attributes: isinstance of a protocol is slow, and this is asked for in every step.
    if hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
        yield place, cast(Stateful, value)
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _stateful(f"{place}.{key}", each)
    elif isinstance(value, (list, tuple)):
        for key, each in enumerate(value):
            yield from _stateful(f"{place}.{key}", each)


def _moved(value: Any, device: torch.device) -> Any:
    """Tensors, also in lists and dicts, on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(each, device) for key, each in value.items()}
    if isinstance(value, list):
        return [_moved(each, device) for each in value]
    return value


def _holds_tensor(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_tensor, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_holds_tensor, value))
    return isinstance(value, Tensor)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, str))


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]
