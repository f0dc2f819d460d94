"""One training that is written down as it goes, and goes on where it was left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.amp import GradScaler

import domaingrad
from domaingrad.bench.disk import RunDirectoryError
from domaingrad.bench.domains import DataError, DomainData, News, listed
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
    with isolated(0):
        torch.set_rng_state(built.drawn)
        network = built.network.to(ranks.device)
        scaler = GradScaler(ranks.device.type, enabled=config.precision == "16-mixed")
        context = DeviceContext(ranks, scaler)
        trainer = Trainer(config, data, built.splits, network, names, context)
        return Begun(trainer, built, torch.get_rng_state())


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
    ranks, listener = carried.ranks, carried.listener
    loggers: list[Any] = []
    ranks.first(lambda: loggers.extend(logger_in(name, directory) for name in carried.loggers))
    with isolated(0), noted_warnings() as warned:
        if not isinstance(begun, Begun):
            begun = _begun_together(config, data, ranks, begun)
        torch.set_rng_state(begun.drawn)
        trainer, notes = begun.trainer, [*begun.built.notes]
        if config.compile:
            trainer.network.compile()
        for note in notes:
            listener.news.say(f"Note: {note}")
        plain = _trained(config, data, begun)
        before, chosen = _resumed(directory, trainer, carried)
        if chosen is not None:
            # What was written after that state belongs to steps that are done again.
            again = chosen
            ranks.first(lambda: directory.save_model(again.content(plain, config)))
            for logger in loggers:
                log_again(
                    logger, [c for c in directory.checkpoints() if c.step <= trainer.steps_done]
                )
        first, last = trainer.steps_done, None
        listener.begin(config, first)
        steps = training_of(config, data).steps
        scores = ranks.first(
            lambda: [c.val_score for c in directory.checkpoints() if c.step <= first]
        )
        began = time.perf_counter()
        while trainer.steps_done < steps and not _ended(config, scores):
            with interrupted_after():
                if trainer.step():
                    found = trainer.checkpoint()
                    last = found[0]
                    scores.append(last.val_score)
                    if chosen is None or last.val_score >= chosen.val_score:
                        with trainer.predicting() as predictor:
                            chosen = _Chosen.now(predictor, last)
                    seconds = before + time.perf_counter() - began
                    kept = {
                        "trainer": trainer.state_dict(),
                        "chosen": vars(chosen),
                        "seconds": seconds,
                    }
                    content = partial(chosen.content, plain, config)
                    better = content if chosen.step == last.step else None
                    ranks.first(partial(_keep, directory, *found, better, kept, loggers))
                done, now = trainer.steps_done, time.perf_counter() - began
                told = (last and in_words(last.val_score, data.task, config.metric)) or ""
                listener.step(Status(done, steps, done - first, now, trainer.data_time, last, told))
        seconds = before + time.perf_counter() - began
        for note in _notes_at_end(config, scores, trainer.steps_done, steps):
            listener.news.say(f"Note: {note}")
            notes.append(note)
    for logger in loggers:
        end(logger)
    facts = {"seconds": seconds, "warnings": list(warned), "notes": notes}
    ranks.first(lambda: directory.finish(facts | {"kept": carried.keep_model}))


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
        before, chosen = state["seconds"], _Chosen(**state["chosen"])
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


def _keep(
    directory: RunDirectory,
    checkpoint: Checkpoint,
    sealed: Sealed,
    groups: Recorded,
    better: Callable[[], bytes] | None,
    state: Mapping[str, Any],
    loggers: Sequence[Any],
) -> None:
    """Write down a checkpoint, the model if it is a better one, and the state to go on from."""
    directory.append(checkpoint, sealed, groups)
    if better is not None:
        directory.save_model(better())
    directory.save_state(state)
    for logger in loggers:
        logger.log_metrics(logged(checkpoint), checkpoint.step)
        logger.save()


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

    step: int
    val_score: float
    weights: Mapping[str, Tensor]

    @classmethod
    def now(cls, predictor: Network | Predictor, checkpoint: Checkpoint) -> _Chosen:
        """The predictor as it is."""
        weights = TrainedModel.weights_of(predictor)
        return cls(checkpoint.step, checkpoint.val_score, weights)

    def content(self, plain: TrainedModel, config: TrainConfig) -> bytes:
        """What its file holds."""
        facts = {
            "method": config.method,
            "hyperparameters": dict(config.hyperparameters),
            "average": config.average,
            "metric": config.metric,
            "step": self.step,
            "source_validation": self.val_score,
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
