"""The loop: one network, one method, one domain held out or none; it can be resumed."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from domaingrad.bench.domains import (
    Balance,
    DataError,
    DomainData,
    Preparation,
    Task,
    losses,
    score,
)
from domaingrad.bench.methods import Amp, Batches, Method, Setup, Validation
from domaingrad.bench.metrics import METRICS, Metric, beside_score, errors_of
from domaingrad.bench.models import Network, Predictor
from domaingrad.bench.protocol import (
    Split,
    generator_of,
    of_trained,
    seed_of,
    split_domain,
    strata_of,
    trained_groups,
)
from domaingrad.bench.schema import without_none
from domaingrad.inspect import sign_agreement

from .averaging import averaging_of
from .feeding import Feed, WholeFeed
from .optimizers import Optimizers
from .ranks import Ranks
from .settings import TrainConfig, method_of, training_of

EVALUATED_AT_ONCE = 2**22
"""Numbers in the inputs that pass through a model together when it is evaluated."""
STREAMS = ("batches", "agreement", "augmentation", "method")
"""What a run draws, each from a generator of its own."""


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
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What the method itself has to tell (a learned ratio, say)."""
    beside: Mapping[str, float] = field(default_factory=dict)
    """Beside the score: samples, a 95 % interval, RMSE and MAE of numbers."""


@dataclass(frozen=True)
class HeldOutScores:
    """The sealed side of a checkpoint: scores on the splits of the held-out domain."""

    score: float
    """On its training split, which is what is reported, as in DomainBed."""
    oracle_validation: float
    """On its validation split, for the oracle alone."""
    beside: Mapping[str, float] = field(default_factory=dict)
    """Beside ``score``, as of a checkpoint."""


Sealed = Mapping[str, HeldOutScores]
"""Scores by domain held out."""

Recorded = Mapping[str, Mapping[str, Any]]
"""By domain, what the data's recorder keeps of groups: of the sources' validation splits, and of
all there is of the domains held out."""


@dataclass(frozen=True)
class TargetScaler:
    """How labels are scaled for the loss, so that regression does not depend on their unit."""

    mean: float = 0.0
    scale: float = 1.0

    @classmethod
    def of(cls, data: DomainData, sources: Mapping[str, Split]) -> TargetScaler:
        """For regression, from the sources' training splits alone; nothing to do for the rest."""
        if data.task != "regression":
            return cls()
        labels = torch.cat([split.data.tensors[1][split.train] for split in sources.values()])
        mean, scale = labels.double().mean().item(), labels.double().std(correction=0).item()
        return cls(mean, scale if scale > 0 else 1.0)

    def scaled(self, labels: Tensor) -> Tensor:
        """As the loss sees them."""
        if self == TargetScaler():
            return labels
        # In double precision, as labels near 1e9 need.
        return ((labels.double() - self.mean) / self.scale).float()

    def unscaled(self, outputs: Tensor) -> Tensor:
        """A model's outputs in the unit of the labels."""
        return outputs if self == TargetScaler() else outputs.double() * self.scale + self.mean


@dataclass(frozen=True)
class DeviceContext:
    """Where, among which processes and how precisely a model computes."""

    ranks: Ranks
    scaler: GradScaler

    @property
    def device(self) -> torch.device:
        """Of this process."""
        return self.ranks.device


@dataclass(frozen=True)
class Splits:
    """Which samples do what in a run."""

    sources: Mapping[str, Split]
    held_out: Mapping[str, Split]
    preparation: Preparation
    """Fitted to the sources' training splits."""
    target: TargetScaler

    @cached_property
    def prepared_as(self) -> str:
        """Equal for splits whose samples of the same data are prepared alike."""
        return json.dumps([self.preparation.described(), asdict(self.target)], sort_keys=True)

    @classmethod
    def of(
        cls,
        data: DomainData,
        held_out: Sequence[str],
        trial: tuple[object, ...],
        balance: Balance = "none",
    ) -> Splits:
        """Split every domain, and fit what is fitted.

        Args:
            data: the data.
            held_out: the domains that training never sees, if any.
            trial: names from which the seeds of the splits derive.
            balance: of what batches are to hold as many samples each.

        Raises:
            DataError: no source domain is left, or nothing to balance over.
        """
        splits = _split(data, trial)
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
        if balance != "none":
            sources = {
                name: replace(split, strata=_strata(data, name, split, balance))
                for name, split in sources.items()
            }
        small = [
            name for name, split in splits.items() if not len(split.train) or not len(split.val)
        ]
        if small:
            raise DataError(
                f"{data.name}: each domain needs at least two samples (of two groups, where there "
                f"are groups), one to train on and one to validate; found fewer in "
                f"{', '.join(small)}."
            )
        preparation = data.preparation
        if type(preparation).fitted is not Preparation.fitted:
            preparation = preparation.fitted(
                [split.data.tensors[0][split.train] for split in sources.values()]
            )
        return cls(
            sources,
            {name: splits[name] for name in held_out},
            preparation,
            TargetScaler.of(data, sources),
        )


def _split(data: DomainData, trial: tuple[object, ...]) -> dict[str, Split]:
    """Each domain by itself; those that share groups together, so that these are on one side."""
    splits = {
        name: split_domain(
            domain,
            generator_of(*trial, "split", name),
            data.groups[name].of_sample if name in data.groups else None,
        )
        for name, domain in data.domains.items()
    }
    everywhere = {name: groups for name, groups in data.groups.items() if groups.everywhere}
    times = Counter(each for groups in everywhere.values() for each in groups.names)
    joint = [n for n, groups in everywhere.items() if any(times[each] > 1 for each in groups.names)]
    if joint:
        number = {each: place for place, each in enumerate(times)}
        numbers = {
            name: torch.tensor([number[each] for each in everywhere[name].names])[
                everywhere[name].of_sample
            ]
            for name in joint
        }
        labels = torch.cat([data.domains[name].tensors[1] for name in joint])
        generator = generator_of(*trial, "split", "groups")
        trained = trained_groups(labels, torch.cat(list(numbers.values())), generator)
        splits |= {
            name: of_trained(data.domains[name], torch.isin(own, trained))
            for name, own in numbers.items()
        }
    return splits


def _strata(data: DomainData, name: str, split: Split, balance: Balance) -> tuple[Tensor, ...]:
    """Rows of a source's training split by class or group.

    Raises:
        DataError: there are none.
    """
    if balance == "class" and data.task != "regression":
        return strata_of(split.train, split.data.tensors[1])
    if balance == "group" and name in data.groups:
        return strata_of(split.train, data.groups[name].of_sample)
    raise DataError(
        f"{data.name}: batches cannot balance over each {balance}, since there is none in {name}; "
        f"set balance to none, or name what the groups are."
    )


class Trainer:
    """One network in training: everything that changes from step to step.

    Args:
        config: resolved settings; :func:`require_fit` has seen that they can be.
        data: the data.
        splits: which samples do what.
        network: where it is to compute.
        names: from which, and from nothing else, all seeds derive.
        context: device, processes and precision.

    Raises:
        DataError: the method has an average of its own.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: DomainData,
        splits: Splits,
        network: Network,
        names: tuple[object, ...],
        context: DeviceContext,
    ) -> None:
        method, training = method_of(config), training_of(config, data)
        self.network = network
        self.data_time = 0.0
        """Seconds spent on getting batches ready."""
        self.data, self.splits, self.training = data, splits, training
        self.context = context
        self._marks = _checkpoint_steps(training.steps, training.checkpoints)
        self.optimizers = Optimizers(training)
        weights = None
        if config.class_weights == "balanced":
            weights = _class_weights(splits.sources, data.outputs).to(context.device)
        self._loss = partial(_losses, data.task, weights)
        self._metric_name = config.metric
        self._metric = METRICS[config.metric] if config.metric else None
        self._pooled = config.score_over == "pooled"
        self._generators = {name: generator_of(*names, name) for name in STREAMS}
        sources, size = splits.sources, training.batch
        sizes = [size] * len(sources)
        sharding = method.requires.sharding or "sample by sample"  # for one process it is the same
        shares = context.ranks.shares(sharding, sizes)
        self._shares = dict(zip(sources, shares, strict=True))
        generators = self._generators
        self.feed = Feed(sources, size, generators["batches"], self._shares, config.workers)
        self._whole = WholeFeed(sources) if method.requires.whole else None
        varied = {*(config.augment or ())} - {"none"}
        self._varied = () if method.requires.whole else tuple(sorted(varied))
        whole = dict.fromkeys(sources, slice(None))
        self.looked_at = Feed(sources, size, generators["agreement"], whole)
        self._samples = sum(len(range(training.batch)[share]) for share in shares)
        self.learner = method.learner(
            Setup(
                network=network,
                domains=tuple(splits.sources),
                steps=training.steps,
                loss=self._loss,
                optimizer=self.optimizers,
                amp=Amp(context.scaler, training.clip_norm),
                generator=self._generators["method"],
                processes=context.ranks,
                outputs=data.outputs,
                class_weights=weights,
            )
        )
        if context.ranks.world > 1:  # What the network draws is this process's own.
            torch.manual_seed(seed_of(*names, "model", f"rank {context.ranks.rank}"))
        self._last_loss = torch.tensor(math.nan)
        self._averaging = averaging_of(
            config.average,
            self.learner.predictor(),
            context.ranks.average_statistics if context.ranks.world > 1 else None,
            begin=config.average_from,
            decay=config.average_decay,
            ratio=config.average_ratio,
        )
        if self._averaging is not None:
            _require_trained(method, self._averaging.model, self.learner.optimizers())

    @contextmanager
    def predicting(self) -> Iterator[Network | Predictor]:
        """What is evaluated, selected and saved, inside with averaged weights if there are any."""
        predictor = self.learner.predictor()
        if self._averaging is not None and predictor is not self._averaging.model:
            raise TypeError(
                f"{type(self.learner).__name__}.predictor() has to return the same module each "
                f"time, for its weights to be averaged; it returned another one."
            )
        with self._averaging.applied() if self._averaging else nullcontext():
            yield predictor

    def step(self) -> bool:
        """Take a step; whether a checkpoint is due."""
        began = time.perf_counter()
        batches = self._prepared(self._whole or self.feed, self._varied)
        self.data_time += time.perf_counter() - began
        loss = self.learner.update(batches)
        self.context.scaler.update()
        self.optimizers.advance(self.learner.optimizers())
        return self.stepped(loss)

    def stepped(self, loss: Tensor) -> bool:
        """A step has been taken; whether a checkpoint is due.

        Args:
            loss: its mean loss.
        """
        self._last_loss = loss
        self.learner.step += 1
        if self._averaging is not None:
            self._averaging.step()
        return self.steps_done in self._marks

    @property
    def steps_done(self) -> int:
        """Steps taken."""
        return self.learner.step

    @property
    def until_checkpoint(self) -> int:
        """Steps to the next checkpoint; 0 after the last."""
        done = self.steps_done
        return min((mark for mark in self._marks if mark > done), default=done) - done

    @property
    def averages(self) -> bool:
        """Whether what is evaluated are averaged weights."""
        return self._averaging is not None

    def rows(self) -> dict[str, list[Tensor]]:
        """What is evaluated: of sources ``val``; of domains held out ``train`` and ``val``."""
        sources, held_out = self.splits.sources, self.splits.held_out
        return {name: [each.val] for name, each in sources.items()} | {
            name: [each.train, each.val] for name, each in held_out.items()
        }

    def checkpoint(self) -> tuple[Checkpoint, Sealed, Recorded]:
        """Evaluate; what may be looked at, and what stays sealed. A collective call."""
        self.context.ranks.average_statistics(self.network)
        rows = self.rows()
        val = {name: rows[name] for name in self.splits.sources}
        rest = {name: rows[name] for name in self.splits.held_out}
        with _evaluating(self.network):
            outputs = self._outputs_of(self.network, val)
            self.validated(outputs)
            agreement = self._agreement()
        with self.predicting() as predictor, _evaluating(predictor), _evaluating(self.network):
            if predictor is not self.network or self.averages:
                outputs = self._outputs_of(predictor, val)
            outputs |= self._outputs_of(predictor, rest)
        return self.judged(outputs, agreement)

    def validated(self, outputs: Mapping[str, Sequence[Tensor]]) -> None:
        """Let method and average hear how the network does on the sources' validation splits.

        Args:
            outputs: the network's on ``val`` of each source.
        """
        found = {
            name: self._validation(split, split.val, *outputs[name])
            for name, split in self.splits.sources.items()
        }
        self.learner.validated(found)
        if self._averaging is not None:
            self._averaging.validated(sum(each.loss for each in found.values()) / len(found))

    def judged(
        self, outputs: Mapping[str, Sequence[Tensor]], agreement: float | None
    ) -> tuple[Checkpoint, Sealed, Recorded]:
        """What outputs come to: what may be looked at, and what stays sealed. A collective call.

        Args:
            outputs: of what predicts, on :meth:`rows`.
            agreement: of the sources' gradients.
        """
        loss = self.context.ranks.mean(self._last_loss.item(), self._samples)
        if not math.isfinite(loss):
            warnings.warn(DIVERGED, DivergedWarning, stacklevel=1)
        sources, held_out = self.splits.sources, self.splits.held_out
        splits, rows = {**sources, **held_out}, self.rows()
        seen = Checkpoint(
            step=self.steps_done,
            loss=loss if math.isfinite(loss) else None,
            val_score=self._over_domains(
                [outputs[name][0] for name in sources],
                [splits[name].data.tensors[1][rows[name][0]] for name in sources],
            ),
            agreement=agreement,
            metrics=self.learner.metrics(),
            beside=self._beside({name: (rows[name][0], outputs[name][0]) for name in sources}),
        )
        sealed = {
            name: HeldOutScores(
                self._score(splits[name], rows[name][0], outputs[name][0]),
                self._score(splits[name], rows[name][1], outputs[name][1]),
                self._beside({name: (rows[name][0], outputs[name][0])}),
            )
            for name in held_out
        }
        recorded = {
            name: self._recorded(name, torch.cat(each), torch.cat(list(outputs[name])))
            for name, each in rows.items()
        }
        return seen, sealed, without_none(recorded)

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on with the same numbers; a collective call."""
        return {
            "learner": self.learner.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "averaging": self._averaging and self._averaging.state_dict(),
            "scaler": self.context.scaler.state_dict(),
            "generators": {
                name: generator.get_state() for name, generator in self._drawing().items()
            },
            "drawn by models": self.context.ranks.gathered(self._drawn()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what :meth:`state_dict` gave."""
        self.learner.load_state_dict(state["learner"])
        self.optimizers.load_state_dict(state["optimizers"])
        if self._averaging is not None:
            self._averaging.load_state_dict(state["averaging"])
        self.context.scaler.load_state_dict(state["scaler"])
        for name, generator in self._drawing().items():
            generator.set_state(state["generators"][name])
        drawn = state["drawn by models"][self.context.ranks.rank]
        torch.set_rng_state(drawn["cpu"])
        if "cuda" in drawn and self.context.device.type == "cuda":
            torch.cuda.set_rng_state(drawn["cuda"], self.context.device)

    def _drawing(self) -> dict[str, Generator | Feed]:
        """All that a run draws from; what is drawn ahead counts as not drawn."""
        return {**self._generators, "batches": self.feed}

    def _drawn(self) -> dict[str, Tensor]:
        """State of the generators from which models draw."""
        states = {"cpu": torch.get_rng_state()}
        if self.context.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.context.device)
        return states

    def _prepared(self, feed: Feed | WholeFeed, varied: Collection[str]) -> Batches:
        """The next batch of each source, or this process's share, where the model computes."""
        device, size = self.context.device, self.training.batch
        prepare, generator = self.splits.preparation, self._generators["augmentation"]
        ready = {}
        for name, (taken, truth) in feed.take().items():
            stored = placed(taken, device)
            inputs = (
                prepare.augmented(stored, generator, size, self._shares[name], varied)
                if varied
                else prepare(stored)
            )
            labels = self.splits.target.scaled(truth).to(device)
            ready[name] = inputs.to(device), labels
        return ready

    def _agreement(self) -> float | None:
        learns = any(p.requires_grad for p in self.network.parameters())
        if len(self.splits.sources) < 2 or not learns:
            return None
        batches = self._prepared(self.looked_at, ())
        # By forward itself, since what torch.compile has made may not go back with a kept graph.
        probe = (self._loss(self.network.forward(x), y).mean() for x, y in batches.values())
        return sign_agreement(self.network, probe)

    def _outputs_of(
        self, model: nn.Module, rows: Mapping[str, Sequence[Tensor]]
    ) -> dict[str, list[Tensor]]:
        """A model's outputs on rows of each domain."""
        splits = {**self.splits.sources, **self.splits.held_out}
        prepare, device = self.splits.preparation, self.context.device
        found = {}
        for name, each in rows.items():
            on = partial(outputs_on, model, prepare, splits[name].data.tensors[0], device=device)
            found[name] = [self.context.ranks.shared(own, on) for own in each]
        return found

    def _validation(self, split: Split, rows: Tensor, outputs: Tensor) -> Validation:
        labels = self.splits.target.scaled(split.data.tensors[1][rows])
        loss = self._loss(outputs, labels).mean().item()
        return Validation(self._score(split, rows, outputs), loss)

    def _score(self, split: Split, rows: Tensor, outputs: Tensor) -> float:
        return self._score_of(outputs, split.data.tensors[1][rows])

    def _score_of(self, outputs: Tensor, labels: Tensor) -> float:
        if self._metric is not None:
            return self._measured(self._metric, labels, outputs)
        return score(self.data.task, outputs, self.splits.target.scaled(labels))

    def _over_domains(self, outputs: Sequence[Tensor], labels: Sequence[Tensor]) -> float:
        """The score on all samples together, or its mean over the domains."""
        if self._pooled:
            return self._score_of(torch.cat(list(outputs)), torch.cat(list(labels)))
        each = [self._score_of(*own) for own in zip(outputs, labels, strict=True)]
        return sum(each) / len(each)

    def _beside(self, found: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, float]:
        """What is known beside the score of some rows' outputs, by domain."""
        splits = {**self.splits.sources, **self.splits.held_out}
        labels = [splits[name].data.tensors[1][rows] for name, (rows, _) in found.items()]
        outputs = [out for _, out in found.values()]
        if not all(out.isfinite().all() for out in outputs):
            return {"samples": float(sum(map(len, labels)))}
        beside = beside_score(
            self.data.task, self._metric_name, outputs, labels, self._over_domains
        )
        if self.data.task == "regression":
            scale = self.splits.target.unscaled
            told = torch.cat([scale(out.squeeze(1)) for out in outputs])
            beside |= errors_of(told, torch.cat(labels))
        return beside

    def _measured(self, metric: Metric, labels: Tensor, outputs: Tensor) -> float:
        """By a metric that was asked for; the least there is once training has diverged.

        Raises:
            DataError: the samples do not define it.
        """
        if not outputs.isfinite().all():
            return -math.inf if self.data.task == "regression" else 0.0
        classes = self.data.task == "classification"
        told = outputs.softmax(1) if classes else self.splits.target.unscaled(outputs.squeeze(1))
        value = metric.of(told, labels)
        if value is None:
            raise DataError(
                f"{metric.title} is not defined on a split of {len(labels)} samples of "
                f"{self.data.name}; choose another metric."
            )
        return float(value)

    def _recorded(self, domain: str, rows: Tensor, outputs: Tensor) -> Mapping[str, Any] | None:
        """Of a domain with groups; ``None`` for other data, and once training has diverged."""
        data = self.data
        if data.recorder is None or domain not in data.groups or not outputs.isfinite().all():
            return None
        labels = data.domains[domain].tensors[1]
        return data.recorder(data.groups[domain], data.classes, labels, rows, outputs.softmax(1))


def require_sources(method: Method, sources: Sequence[str]) -> None:
    """See that a method has enough domains to compare.

    Raises:
        DataError: it has not.
    """
    if len(sources) < method.requires.min_domains:
        raise DataError(
            f"{method.info.title} compares source domains and needs "
            f"{method.requires.min_domains} of them; found {len(sources)} "
            f"({', '.join(sources)}). Use the method erm, or data of more domains."
        )


def require_fit(method: Method, sources: Sequence[str], network: Network) -> None:
    """See that a method has domains and a network that it can do with.

    Raises:
        DataError: it has not.
    """
    require_sources(method, sources)
    if method.requires.features and not network.divided:
        raise DataError(
            f"{method.info.title} needs the features that enter a classifier, which cannot be "
            f"told apart in this backbone; use another backbone or the method erm."
        )


def _require_trained(method: Method, predictor: nn.Module, optimizers: list[Optimizer]) -> None:
    """See that what a method predicts by is what it trains.

    Raises:
        DataError: it is not.
    """
    trained = {id(p) for each in optimizers for group in each.param_groups for p in group["params"]}
    if trained.isdisjoint(map(id, predictor.parameters())):
        raise DataError(
            f"{method.info.title} predicts by an average of its own, so no other is taken: set "
            f"average to none, or use another method."
        )


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """In evaluation mode inside, as before outside."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


@torch.no_grad()
def outputs_on(
    model: nn.Module, preparation: Preparation, stored: Tensor, rows: Tensor, device: torch.device
) -> Tensor:
    """A model's outputs on some rows of stored inputs, in pieces, on the CPU."""
    at_once = max(1, EVALUATED_AT_ONCE // max(1, math.prod(preparation.shape)))
    pieces: tuple[Tensor, ...] = rows.split(at_once)  # type: ignore[no-untyped-call]
    return torch.cat(
        [
            model(preparation(placed(stored[piece], device)).to(device)).float().cpu()
            for piece in pieces
        ]
    )


def placed(stored: Tensor, device: torch.device) -> Tensor:
    """Stored inputs where they are prepared: in double precision on the CPU, as MPS has none."""
    return stored if stored.dtype == torch.float64 else stored.to(device)


def _losses(task: Task, weights: Tensor | None, outputs: Tensor, labels: Tensor) -> Tensor:
    """In float32, whatever precision the model computes in; perhaps weighed by class."""
    found = losses(task, outputs.float(), labels)
    return found if weights is None else found * weights[labels]


def _class_weights(sources: Mapping[str, Split], classes: int) -> Tensor:
    """Of each class n / (K n_c), by the sources' training splits, of K classes that occur.

    So each class counts as much, and the mean weight of the samples is 1.
    """
    labels = torch.cat([split.data.tensors[1][split.train] for split in sources.values()])
    counts = torch.bincount(labels, minlength=classes)
    weights = len(labels) / (int((counts > 0).sum()) * counts.clamp(min=1))
    return torch.where(counts > 0, weights, 0.0)


def _checkpoint_steps(steps: int, most: int) -> frozenset[int]:
    count = min(most, steps)
    return frozenset(round(steps * (i + 1) / count) for i in range(count))
