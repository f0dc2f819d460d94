"""The loop: one model, one method, one domain held out or none; it can be left and gone on with."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR, LRScheduler, OneCycleLR

from domaingrad.bench.domains import (
    DataError,
    DomainData,
    Preparation,
    Task,
    Training,
    losses,
    score,
)
from domaingrad.bench.methods import Batches, Method
from domaingrad.bench.protocol import Split, draw, generator_of, seed_of, split_domain
from domaingrad.bench.protocol.video_scores import VideoScores, frames_scored
from domaingrad.inspect import sign_agreement

from .ranks import Ranks

EVALUATED_AT_ONCE = 2**22
"""Numbers in the inputs that pass through a model together when it is evaluated."""
DECAY = 0.9995
"""Factor on the learning rate per step of the exponential schedule."""
STREAMS = ("batches", "agreement", "augmentation")
"""What a run draws beside the method's own randomness, each from a generator of its own."""


DIVERGED = "the loss is not finite: the run has diverged"


class DivergedWarning(UserWarning):
    """Told at each checkpoint whose last loss is not finite."""


@dataclass(frozen=True)
class Checkpoint:
    """What is known of the sources after ``step`` steps."""

    step: int
    loss: float | None
    """Mean loss of the source domains on the last batch, ``None`` where it is not finite."""
    val_score: float
    """Score on the sources' ``val`` splits, the mean over the source domains."""
    agreement: float | None
    """Share of gradient components on whose sign all source domains agree, if there are several."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """What the method itself has to tell (a learned ratio, say)."""


@dataclass(frozen=True)
class HeldOutScores:
    """The sealed side of a checkpoint: scores on the splits of the held-out domain."""

    train: float
    """What is reported, as in DomainBed."""
    val: float
    """For the oracle alone."""


Sealed = Mapping[str, HeldOutScores]
"""Scores by domain held out."""

SealedVideos = Mapping[str, VideoScores]
"""By domain, where samples are frames of faces, live or not: of the sources' validation splits, and
of all there is of those held out."""


@dataclass(frozen=True)
class Labels:
    """How labels are scaled for the loss, so that regression does not depend on their unit."""

    mean: float = 0.0
    scale: float = 1.0

    @classmethod
    def of(cls, data: DomainData, sources: Mapping[str, Split]) -> Labels:
        """For regression, from the sources' training splits alone; nothing to do for the rest."""
        if data.task != "regression":
            return cls()
        labels = torch.cat([split.data.tensors[1][split.train] for split in sources.values()])
        mean, scale = labels.double().mean().item(), labels.double().std(correction=0).item()
        return cls(mean, scale if scale > 0 else 1.0)

    def scaled(self, labels: Tensor) -> Tensor:
        """As the loss sees them."""
        return labels if self == Labels() else (labels - self.mean) / self.scale

    def unscaled(self, outputs: Tensor) -> Tensor:
        """A model's outputs in the unit of the labels."""
        return outputs if self == Labels() else outputs * self.scale + self.mean


@dataclass(frozen=True)
class Place:
    """Where, among which processes and how precisely a model computes."""

    ranks: Ranks
    scaler: GradScaler

    @property
    def device(self) -> torch.device:
        """Of this process."""
        return self.ranks.device


@dataclass(frozen=True)
class Parts:
    """Which samples do what in a run."""

    sources: Mapping[str, Split]
    held_out: Mapping[str, Split]
    preparation: Preparation
    """Fitted to the sources' training splits."""
    labels: Labels

    @classmethod
    def of(cls, data: DomainData, held_out: Sequence[str], trial: tuple[object, ...]) -> Parts:
        """Split every domain, and fit what is fitted.

        Args:
            data: the data.
            held_out: the domains that training never sees, if any.
            trial: names from which the seeds of the splits derive.

        Raises:
            DataError: no source domain is left.
        """
        splits = {
            name: split_domain(
                domain,
                generator_of(*trial, "split", name),
                data.videos[name].of_sample if name in data.videos else None,
            )
            for name, domain in data.domains.items()
        }
        sources = {
            name: split
            for name, split in splits.items()
            if name not in (*held_out, *data.never_sources)
        }
        if not sources:
            raise DataError(
                f"{data.name}: no domain is left to train on with {' and '.join(held_out)} held "
                f"out."
            )
        small = [
            name for name, split in splits.items() if not len(split.train) or not len(split.val)
        ]
        if small:
            raise DataError(
                f"{data.name}: each domain needs at least two samples, one to train on and one to "
                f"validate; found fewer in {', '.join(small)}."
            )
        preparation = data.preparation.fitted(
            [split.data.tensors[0][split.train] for split in sources.values()]
        )
        return cls(
            sources,
            {name: splits[name] for name in held_out},
            preparation,
            Labels.of(data, sources),
        )


class Fit:
    """One model in training: everything that changes from step to step.

    Args:
        data: the data.
        parts: which samples do what.
        model: the model, where it is to compute.
        method: how batches become ``.grad``.
        training: steps, optimiser, schedule, batch.
        names: from which, and from nothing else, all seeds derive.
        place: device, processes and precision.
        augment: whether training inputs are varied at random, where the data have a way for it.
    """

    def __init__(
        self,
        data: DomainData,
        parts: Parts,
        model: nn.Module,
        method: Method,
        training: Training,
        names: tuple[object, ...],
        place: Place,
        augment: bool = True,
    ) -> None:
        require_sources(method, list(parts.sources))
        self.step = 0
        self.model = model
        self.waited = 0.0
        """Seconds spent on getting batches ready."""
        self._data, self._parts, self._training, self._augment = data, parts, training, augment
        self._place = place
        self._marks = _checkpoint_steps(training.steps, training.checkpoints)
        self._optimiser, self._schedule = _optimiser(model, training)
        self._loss = partial(_losses, data.task)
        self._generators = {name: generator_of(*names, name) for name in STREAMS}
        self._bound = method.bind(
            place.ranks.wrapped(model),
            self._optimiser,
            self._loss,
            generator_of(*names, "method"),
            place.scaler,
        )
        sizes = [training.batch] * len(parts.sources)
        shares = place.ranks.shares(method.dealt, sizes)
        self._shares = dict(zip(parts.sources, shares, strict=True))
        self._samples = sum(len(range(training.batch)[share]) for share in shares)
        if place.ranks.world > 1:  # What the model draws is this process's own.
            torch.manual_seed(seed_of(*names, "model", f"rank {place.ranks.rank}"))
        self._last_loss = torch.tensor(math.nan)

    def advance(self) -> bool:
        """Take a step; whether a checkpoint is due."""
        began = time.perf_counter()
        batches = self._batches("batches", self._shares, augment=self._augment)
        self.waited += time.perf_counter() - began
        self._last_loss = self._bound.backward(batches)
        self._place.scaler.step(self._optimiser)
        self._place.scaler.update()
        self._schedule.step()
        self._optimiser.zero_grad()
        self.step += 1
        return self.step in self._marks

    def checkpoint(self) -> tuple[Checkpoint, Sealed, SealedVideos]:
        """Evaluate; what may be looked at, and what stays sealed. A collective call."""
        ranks = self._place.ranks
        loss = ranks.mean(self._last_loss.item(), self._samples)
        ranks.average_statistics(self.model)
        if not math.isfinite(loss):
            warnings.warn(DIVERGED, DivergedWarning, stacklevel=1)
        sources, held_out = self._parts.sources, self._parts.held_out
        splits = {**sources, **held_out}
        rows = {name: [each.val] for name, each in sources.items()}
        rows |= {name: [each.train, each.val] for name, each in held_out.items()}
        self.model.eval()
        try:
            outputs = {
                name: [self._outputs(splits[name], own) for own in each]
                for name, each in rows.items()
            }
            scores = {
                name: [
                    self._score(splits[name], own, found)
                    for own, found in zip(each, outputs[name], strict=True)
                ]
                for name, each in rows.items()
            }
            seen = Checkpoint(
                step=self.step,
                loss=loss if math.isfinite(loss) else None,
                val_score=sum(scores[name][0] for name in sources) / len(sources),
                agreement=self._agreement(),
                numbers=self._bound.numbers(),
            )
        finally:
            self.model.train()
        sealed = {name: HeldOutScores(*scores[name]) for name in held_out}
        videos = {
            name: self._videos(name, torch.cat(each), torch.cat(outputs[name]))
            for name, each in rows.items()
        }
        return seen, sealed, {name: found for name, found in videos.items() if found is not None}

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on with the same numbers; a collective call."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(),
            "scaler": self._place.scaler.state_dict(),
            "method": self._bound.state.state_dict() if self._bound.state else {},
            "generators": {
                name: generator.get_state() for name, generator in self._generators.items()
            },
            "drawn by models": self._place.ranks.gathered(self._drawn()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what :meth:`state_dict` gave."""
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.load_state_dict(state["schedule"])
        self._place.scaler.load_state_dict(state["scaler"])
        if self._bound.state:
            self._bound.state.load_state_dict(state["method"])
        for name, generator in self._generators.items():
            generator.set_state(state["generators"][name])
        drawn = state["drawn by models"][self._place.ranks.rank]
        torch.set_rng_state(drawn["cpu"])
        if "cuda" in drawn and self._place.device.type == "cuda":
            torch.cuda.set_rng_state(drawn["cuda"], self._place.device)

    def _drawn(self) -> dict[str, Tensor]:
        """State of the generators from which models draw."""
        states = {"cpu": torch.get_rng_state()}
        if self._place.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self._place.device)
        return states

    def _batches(self, stream: str, shares: Mapping[str, slice], augment: bool) -> Batches:
        """A batch of each source, or a share of it, prepared, where the model computes."""
        generator = self._generators[stream]
        device, size = self._place.device, self._training.batch
        ready = {}
        for name, split in self._parts.sources.items():
            share = shares.get(name, slice(None))
            stored, labels = draw(split, size, generator, share)
            stored, labels = stored.to(device), labels.to(device)
            prepare = self._parts.preparation
            inputs = (
                prepare.augmented(stored, self._generators["augmentation"], size, share)
                if augment
                else prepare(stored)
            )
            ready[name] = inputs, self._parts.labels.scaled(labels)
        return ready

    def _agreement(self) -> float | None:
        if len(self._parts.sources) < 2:
            return None
        batches = self._batches("agreement", {}, augment=False)
        probe = (self._loss(self.model(x), y).mean() for x, y in batches.values())
        return sign_agreement(self.model, probe)

    def _outputs(self, split: Split, rows: Tensor) -> Tensor:
        stored = split.data.tensors[0]
        return self._place.ranks.shared(
            rows,
            lambda own: outputs_on(
                self.model, self._parts.preparation, stored, own, self._place.device
            ),
        )

    def _score(self, split: Split, rows: Tensor, outputs: Tensor) -> float:
        labels = split.data.tensors[1][rows]
        return score(self._data.task, outputs, self._parts.labels.scaled(labels))

    def _videos(self, domain: str, rows: Tensor, outputs: Tensor) -> VideoScores | None:
        """Of frames of faces; ``None`` for other data, and once training has diverged."""
        if domain not in self._data.videos or not outputs.isfinite().all():
            return None
        labels, videos = self._data.domains[domain].tensors[1], self._data.videos[domain]
        return frames_scored(videos, self._data.classes, labels, rows, outputs.softmax(1))


def require_sources(method: Method, sources: Sequence[str]) -> None:
    """See that a method has enough domains to compare.

    Raises:
        DataError: it has not.
    """
    if len(sources) < method.fewest_sources:
        raise DataError(
            f"{method.title} compares source domains and needs {method.fewest_sources} of them; "
            f"found {len(sources)} ({', '.join(sources)}). Use the method erm, or data of more "
            f"domains."
        )


@torch.no_grad()
def outputs_on(
    model: nn.Module, preparation: Preparation, stored: Tensor, rows: Tensor, device: torch.device
) -> Tensor:
    """A model's outputs on some rows of stored inputs, in pieces, on the CPU."""
    at_once = max(1, EVALUATED_AT_ONCE // max(1, math.prod(preparation.shape)))
    pieces: tuple[Tensor, ...] = rows.split(at_once)  # type: ignore[no-untyped-call]
    return torch.cat(
        [model(preparation(stored[piece].to(device))).float().cpu() for piece in pieces]
    )


def _losses(task: Task, outputs: Tensor, labels: Tensor) -> Tensor:
    """In float32, whatever precision the model computes in."""
    return losses(task, outputs.float(), labels)


def _optimiser(model: nn.Module, training: Training) -> tuple[Optimizer, LRScheduler]:
    rate, decay = training.learning_rate, training.weight_decay
    optimiser: Optimizer
    if training.optimiser == "adam":
        optimiser = Adam(model.parameters(), rate, weight_decay=decay, fused=True)
    else:
        optimiser = SGD(model.parameters(), rate, weight_decay=decay)
    match training.schedule:
        case "one-cycle":
            return optimiser, OneCycleLR(optimiser, rate, total_steps=training.steps + 1)
        case "exponential":
            return optimiser, ExponentialLR(optimiser, DECAY)
        case "constant":
            return optimiser, LambdaLR(optimiser, lambda _: 1.0)


def _checkpoint_steps(steps: int, most: int) -> frozenset[int]:
    count = min(most, steps)
    return frozenset(round(steps * (i + 1) / count) for i in range(count))
