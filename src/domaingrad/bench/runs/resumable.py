"""One training that is written down as it goes, and goes on where it was left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.amp import GradScaler

import domaingrad
from domaingrad.bench.disk import RunDirectoryError
from domaingrad.bench.domains import AUGMENTATIONS, DataError, DomainData, News, listed
from domaingrad.bench.metrics import in_words
from domaingrad.bench.models import Architecture, Network, Predictor, freeze_norms, load_weights
from domaingrad.bench.models.pretrained import PACKAGE
from domaingrad.bench.protocol import seed_of

from .directory import DAMAGED, RunDirectory
from .interrupts import interrupted_after
from .isolation import isolated, noted_warnings
from .launching import alone_on
from .loggers import end, log_again, logged, logger_in
from .probing import fit_head
from .ranks import Ranks
from .settings import PRECISIONS, TrainConfig, architecture_of, method_of, training_of
from .trained import TrainedModel
from .trainer import Checkpoint, DeviceContext, Recorded, Sealed, Splits, Trainer, require_fit

RARE, RARE_SHARE = 10, 0.2
"""A class is rare with fewer samples than this, or than this share of a class of mean size."""
RISES = 0.01
"""What a score has to gain in the last fifth of a run for the run to be called too short."""


@dataclass(frozen=True)
class Status:
    """How far a training has come."""

    step: int
    steps: int
    here: int
    """Steps taken by this process; the rest were there before."""
    seconds: float
    """Time they took."""
    data_time: float
    """Part of it that was spent on getting batches ready."""
    checkpoint: Checkpoint | None
    score: str
    """Its source validation, in words."""


@dataclass(frozen=True)
class Listener:
    """Who hears how training goes."""

    news: News = field(default_factory=News)
    begin: Callable[[TrainConfig, int], None] = lambda *_: None
    """A run begins or goes on: its settings, the steps done."""
    step: Callable[[Status], None] = lambda _: None


@dataclass(frozen=True)
class Carried:
    """How trainings are carried out: among which processes, and who hears of them."""

    ranks: Ranks
    listener: Listener
    loggers: Sequence[str]
    keep_model: bool = True
    """Whether the model and the state to go on from stay, once training has ended."""


@dataclass(frozen=True)
class Built:
    """What a training is made of, before there is a device."""

    splits: Splits
    architecture: Architecture
    network: Network
    notes: list[str]
    """What there is to tell of it."""
    drawn: Tensor
    """State of the global generator, from which initialisation has drawn."""


@dataclass(frozen=True)
class Begun:
    """A training before its first step."""

    trainer: Trainer
    built: Built
    drawn: Tensor
    """State of the global generator, from which initialisation has drawn."""
    warned: tuple[str, ...]
    """What the method has warned of."""


def build(config: TrainConfig, data: DomainData) -> Built:
    """Split the data and make the network.

    Raises:
        DataError, ValueError: the training cannot begin.
    """
    with isolated(seed_of(*_names(config, data), "initialisation")):
        balance = training_of(config, data).balance
        splits = Splits.of(data, config.held_out, _trial(config, data), balance)
        architecture = architecture_of(config, data)
        network, notes = _network(config, data, splits, architecture)
        require_fit(method_of(config), list(splits.sources), network)
        notes += _shared_groups(data, splits)
        notes += _rare_classes(config, data, splits)
        notes += _unvaried(config, data)
        return Built(splits, architecture, network, notes, torch.get_rng_state())


def begin(
    config: TrainConfig, data: DomainData, ranks: Ranks | None = None, built: Built | None = None
) -> Begun:
    """Make all that a training needs, once.

    Args:
        config: resolved settings.
        data: the data.
        ranks: among which processes; one unless given.
        built: by these settings, if it has been already.

    Raises:
        DataError, ValueError: the training cannot begin.
    """
    ranks = ranks or Ranks(partial(alone_on, config))
    built = built or build(config, data)
    names = _names(config, data)
    with isolated(0), noted_warnings() as warned:
        torch.set_rng_state(built.drawn)
        network = built.network.to(ranks.device)
        scaler = GradScaler(ranks.device.type, enabled=config.precision == "16-mixed")
        context = DeviceContext(ranks, scaler)
        trainer = Trainer(config, data, built.splits, network, names, context)
        drawn = torch.get_rng_state()
    return Begun(trainer, built, drawn, tuple(warned))


def carry_on(
    config: TrainConfig,
    data: DomainData,
    directory: RunDirectory,
    carried: Carried,
    begun: Begun | Built | None = None,
) -> None:
    """Train to the end, from where the directory was left; a collective call.

    Args:
        config: resolved settings.
        data: the data.
        directory: has begun with these settings.
        carried: among which processes, and who hears of it.
        begun: the training, if it has begun already; or what it is made of.
    """
    with isolated(0), noted_warnings() as warned:
        if not isinstance(begun, Begun):
            begun = _begun_together(config, data, carried.ranks, begun)
        torch.set_rng_state(begun.drawn)
        if config.compile:
            begun.trainer.network.compile()
        underway = Underway(config, data, directory, carried, begun)
        while not underway.ended:
            with interrupted_after():
                if begun.trainer.step():
                    underway.keep(*begun.trainer.checkpoint())
                    underway.write()
                underway.spend()
                underway.tell()
    underway.finish(warned)


class Underway:
    """A training that is written down as it goes; every method is a collective call.

    Args:
        config: resolved settings.
        data: the data.
        directory: has begun with these settings; what is there is gone on from.
        carried: among which processes, and who hears of it.
        begun: the training.

    Raises:
        RunDirectoryError: the state in the directory is of something else.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: DomainData,
        directory: RunDirectory,
        carried: Carried,
        begun: Begun,
    ) -> None:
        self.config, self.directory, self.trainer = config, directory, begun.trainer
        self._data, self._carried = data, carried
        self._plain, self._warned = _trained(config, data, begun), begun.warned
        self._notes = [*begun.built.notes]
        self._loggers: list[Any] = []
        ranks, listener = carried.ranks, carried.listener
        ranks.first(
            lambda: self._loggers.extend(logger_in(name, directory) for name in carried.loggers)
        )
        for note in self._notes:
            listener.news.say(f"Note: {note}")
        self._unwritten: list[tuple[Checkpoint, Sealed, Recorded]] = []
        self._before, self._chosen = _resumed(directory, begun.trainer, carried)
        if self._chosen is not None:
            # What was written after that state belongs to steps that are done again.
            ranks.first(self._save_model)
            for logger in self._loggers:
                log_again(logger, [c for c in directory.checkpoints() if c.step <= self.done])
        self._first = self.done
        self._last: Checkpoint | None = None
        listener.begin(config, self._first)
        self._steps = training_of(config, data).steps
        self._scores = ranks.first(
            lambda: [c.val_score for c in directory.checkpoints() if c.step <= self._first]
        )
        self._here, self._now = 0.0, time.perf_counter()

    def spend(self, together: int = 1) -> None:
        """Count the time that has passed, of which each of so many runs has its share."""
        before, self._now = self._now, time.perf_counter()
        self._here += (self._now - before) / together

    @property
    def done(self) -> int:
        """Steps taken."""
        return self.trainer.steps_done

    @property
    def seconds(self) -> float:
        """That it has taken so far."""
        return self._before + self._here

    @property
    def ended(self) -> bool:
        """Whether no step is left to take."""
        return self.done >= self._steps or _ended(self.config, self._scores) is not None

    @property
    def selected(self) -> Checkpoint:
        """The checkpoint with the best source validation."""
        assert self._chosen is not None
        return self._chosen.checkpoint

    def keep(self, checkpoint: Checkpoint, sealed: Sealed, groups: Recorded) -> None:
        """Take in what a checkpoint has come to."""
        self._last = checkpoint
        self._scores.append(checkpoint.val_score)
        if self._chosen is None or checkpoint.val_score >= self._chosen.checkpoint.val_score:
            with self.trainer.predicting() as predictor:
                self._chosen = _Chosen.now(predictor, checkpoint)
        self._unwritten.append((checkpoint, sealed, groups))

    def write(self) -> None:
        """Write down what was taken in, and the state to go on from."""
        chosen, unwritten, self._unwritten = self._chosen, self._unwritten, []
        if not unwritten:
            return
        assert chosen is not None
        state = {
            "trainer": self.trainer.state_dict(),
            "chosen": {**vars(chosen), "checkpoint": asdict(chosen.checkpoint)},
            "seconds": self.seconds,
        }

        def kept() -> None:
            self.directory.append(*unwritten)
            if any(seen.step == chosen.checkpoint.step for seen, *_ in unwritten):
                self._save_model()
            self.directory.save_state(state)
            for seen, *_ in unwritten:
                for logger in self._loggers:
                    logger.log_metrics(logged(seen), seen.step)
                    logger.save()

        self._carried.ranks.first(kept)

    def tell(self) -> None:
        """Let the listener hear how far it is."""
        last = self._last
        told = last and in_words(last.val_score, self._data.task, self.config.metric)
        status = Status(
            self.done, self._steps, self.done - self._first, self._here, self.trainer.data_time,
            last, told or "",
        )  # fmt: skip
        self._carried.listener.step(status)

    def finish(self, warned: Sequence[str]) -> None:
        """Write down that it has ended, and what it has warned of."""
        seconds = self.seconds
        for note in _notes_at_end(self.config, self._scores, self.done, self._steps):
            self._carried.listener.news.say(f"Note: {note}")
            self._notes.append(note)
        for logger in self._loggers:
            end(logger)
        told = list(dict.fromkeys([*self._warned, *warned]))
        facts = {"seconds": seconds, "warnings": told, "notes": self._notes}
        facts |= {"kept": self._carried.keep_model}
        self._carried.ranks.first(lambda: self.directory.append(*self._unwritten, finished=facts))

    def _save_model(self) -> None:
        assert self._chosen is not None
        self.directory.save_model(self._chosen.content(self._plain, self.config))


def _resumed(
    directory: RunDirectory, trainer: Trainer, carried: Carried
) -> tuple[float, _Chosen | None]:
    """Put a training where it was left: its seconds so far and what it had chosen, if anything.

    Raises:
        RunDirectoryError: the state is of something else.
    """
    state = carried.ranks.first(directory.resume)
    for name in directory.set_aside:
        carried.listener.news.say(f"{name} is damaged; it is kept as {name}{DAMAGED}.")
    if not state:
        return 0.0, None
    try:
        before, kept = state["seconds"], state["chosen"]
        chosen = _Chosen(Checkpoint(**kept["checkpoint"]), kept["weights"])
        trainer.load_state_dict(state["trainer"])
    except (KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise RunDirectoryError(
            f"the state in {directory.path} is not one of this run "
            f"({type(error).__name__}: {error}); choose another directory."
        ) from error
    return before, chosen


def _ended(config: TrainConfig, scores: Sequence[float]) -> str | None:
    """Why training ends before its last step, if it does."""
    since = len(scores) - 1 - scores.index(max(scores)) if scores else 0
    if config.patience is None or since < config.patience:
        return None
    return f"source validation has not risen for {since} checkpoints"


def _notes_at_end(
    config: TrainConfig, scores: Sequence[float], done: int, steps: int
) -> Iterator[str]:
    """That a run has ended early, or is too short."""
    if done < steps:
        yield f"ended at step {done} of {steps}: {_ended(config, scores)}"
    elif rises := _still_rises(scores):
        yield f"{rises}; train longer than {steps} steps"


def _still_rises(scores: Sequence[float]) -> str | None:
    """That the last fifth of the checkpoints is better than those before, at its best and in mean.

    >>> _still_rises([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
    'source validation still rises at the end, by 0.150 in the last fifth'
    >>> _still_rises([0.9, 0.9, 0.9, 0.9, 0.9, 0.905])
    """
    count = len(scores) // 5
    if not count:
        return None
    before, last = scores[:-count], scores[-count:]
    gain = max(last) - max(before)
    mean = sum(last) / count - sum(before[-count:]) / count
    if not min(gain, mean) > RISES:
        return None
    return f"source validation still rises at the end, by {gain:.3f} in the last fifth"


def _begun_together(
    config: TrainConfig, data: DomainData, ranks: Ranks, built: Built | None
) -> Begun:
    """Begin on all processes, or on none; what is wrong is told once."""
    begun, failed = None, None
    try:
        begun = begin(config, data, ranks, built)
    except ValueError as error:
        failed = error
    ranks.require_none_failed(failed)
    assert begun is not None
    return begun


def _names(config: TrainConfig, data: DomainData) -> tuple[object, ...]:
    """What all seeds of a training derive from."""
    return (*_trial(config, data), f"held out {' and '.join(config.held_out) or None}")


def _trial(config: TrainConfig, data: DomainData) -> tuple[object, ...]:
    """What the split derives from, whichever domain is held out."""
    return config.seed, data.name, f"trial {config.trial}"


def _network(
    config: TrainConfig, data: DomainData, splits: Splits, architecture: Architecture
) -> tuple[Network, list[str]]:
    """The network before the first step, and what there is to tell of it."""
    shape = splits.preparation.shape
    model = architecture.build(shape, data.outputs)
    notes = [*splits.preparation.notes]
    if config.weights is not None and not config.frozen_backbone:
        report = load_weights(model, Path(config.weights))
        fresh = ", ".join(report.head) or "none"
        unused = f"; left out of the file: {', '.join(report.unused)}" if report.unused else ""
        notes.append(
            f"{report.loaded} tensors of weights loaded; with fresh values: {fresh}{unused}"
        )
    elif config.backbone == "efficientnet-lite0" and not config.frozen_backbone:
        notes.append(f"the backbone begins with fresh weights; weights={PACKAGE} has ImageNet's")
    if config.frozen_norms and not (count := freeze_norms(model)):
        raise DataError(
            f"there are no norms to freeze in {config.backbone}: it has no BatchNorm with running "
            f"statistics. Leave frozen_norms out."
        )
    if config.frozen_norms:
        notes.append(f"{count} norms with frozen statistics")
    network = Network(model, shape, config.dropout, PRECISIONS[config.precision])
    if config.lp_ft:
        notes.append(fit_head(network, config, data, splits))
    return network, notes


def _rare_classes(config: TrainConfig, data: DomainData, splits: Splits) -> Iterator[str]:
    """That accuracy hardly sees some classes, unless something is done about it."""
    done = config.class_weights != "none" or training_of(config, data).balance == "class"
    if data.task != "classification" or done or config.metric not in (None, "accuracy"):
        return
    labels = torch.cat([split.data.tensors[1][split.train] for split in splits.sources.values()])
    counts = torch.bincount(labels, minlength=len(data.classes)).tolist()
    least = max(RARE, RARE_SHARE * len(labels) / len(counts))
    rare = [f"{n} ({c:,})" for n, c in zip(data.classes, counts, strict=True) if 0 < c < least]
    if rare:
        yield (
            f"few of {len(labels):,} training samples are of class {listed(rare)}, which accuracy "
            f"hardly counts; see class_weights, balance and the metrics balanced-accuracy, macro-f1"
        )


def _unvaried(config: TrainConfig, data: DomainData) -> Iterator[str]:
    """That photographs are left as they are, since the run is short."""
    if config.augment == ("none",) and (config.steps or 0) < data.recipe.varied_from:
        yield (
            f"images are not varied in training, which in fewer than {data.recipe.varied_from} "
            f"steps costs more than it gives; augment ({','.join(AUGMENTATIONS)}) varies them"
        )


def _shared_groups(data: DomainData, splits: Splits) -> Iterator[str]:
    """That a domain held out has groups in common with the sources, which no split can mend."""
    trained = {
        each
        for name in splits.sources
        if name in data.groups and data.groups[name].everywhere
        for each in data.groups[name].names
    }
    for name in splits.held_out:
        own = data.groups.get(name)
        if own is not None and own.everywhere and (both := trained.intersection(own.names)):
            yield (
                f"{len(both)} of {len(own.names)} groups of {name}, held out, are in the sources, "
                f"too: its score is of a new domain, but not of new groups"
            )


@dataclass(frozen=True)
class _Chosen:
    """The model with the best source validation so far, the latest of equals."""

    checkpoint: Checkpoint
    weights: Mapping[str, Tensor]

    @classmethod
    def now(cls, predictor: Network | Predictor, checkpoint: Checkpoint) -> _Chosen:
        """The predictor as it is."""
        return cls(checkpoint, TrainedModel.weights_of(predictor))

    def content(self, plain: TrainedModel, config: TrainConfig) -> bytes:
        """What its file holds."""
        facts = {
            "method": config.method,
            "hyperparameters": dict(config.hyperparameters),
            "average": config.average,
            "metric": config.metric,
            "step": self.checkpoint.step,
            "source_validation": self.checkpoint.val_score,
            "version": domaingrad.__version__,
        }
        return plain.content(self.weights, facts)


def _trained(config: TrainConfig, data: DomainData, begun: Begun) -> TrainedModel:
    return TrainedModel(
        begun.trainer.learner.predictor(),
        begun.built.architecture,
        data=data.name,
        transform=begun.built.splits.preparation,
        task=data.task,
        classes=data.classes,
        target=begun.built.splits.target,
        sources=tuple(begun.built.splits.sources),
        held_out=config.hold_out,
        facts={},
    )
