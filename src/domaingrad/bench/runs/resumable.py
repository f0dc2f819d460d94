"""One training that is written down as it goes, and goes on where it was left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.amp import GradScaler

import domaingrad
from domaingrad.bench.domains import DataError, DomainData, News
from domaingrad.bench.models import freeze_norms, load_weights
from domaingrad.bench.protocol import seed_of

from .directory import RunDirectory
from .fitting import Checkpoint, Fit, Parts, Place, Sealed, SealedVideos
from .isolation import isolated, noted_warnings
from .launching import alone_on
from .loggers import end, log_again, logged, logger_in
from .ranks import Ranks
from .settings import TrainConfig, method_of, training_of
from .trained import Trained, make_model


@dataclass(frozen=True)
class Status:
    """How far a training has come."""

    step: int
    steps: int
    here: int
    """Steps taken by this process; the rest were there before."""
    seconds: float
    """Time they took."""
    waited: float
    """Part of it that was spent on getting batches ready."""
    checkpoint: Checkpoint | None


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


def fit_of(config: TrainConfig, data: DomainData, ranks: Ranks | None = None) -> Fit:
    """A training that is begun, but for the record: to see that it can be, and how fast."""
    ranks = ranks or Ranks(partial(alone_on, config))
    fit, _, _ = _begin(replace(config, compile=False), data, ranks, _trial(config, data))
    return fit


def carry_on(
    config: TrainConfig, data: DomainData, directory: RunDirectory, carried: Carried
) -> None:
    """Train to the end, from where the directory was left; a collective call.

    Args:
        config: resolved settings.
        data: the data.
        directory: has begun with these settings.
        carried: among which processes, and who hears of it.
    """
    ranks, listener = carried.ranks, carried.listener
    names = (*_trial(config, data), f"held out {' and '.join(config.held_out) or None}")
    loggers: list[Any] = []
    ranks.first(lambda: loggers.extend(logger_in(name, directory) for name in carried.loggers))
    with isolated(seed_of(*names, "initialisation")), noted_warnings() as warned:
        fit, parts, notes = _begin(config, data, ranks, names)
        for note in notes:
            listener.news.say(f"Note: {note}")
        plain = _trained(config, data, parts, fit.model)
        before, chosen = 0.0, None
        if state := ranks.first(directory.state):
            before, chosen = state["seconds"], _Chosen(**state["chosen"])
            fit.load_state_dict(state["fit"])
            # What was written after that state belongs to steps that are done again.
            again = chosen
            ranks.first(lambda: directory.save_model(again.content(plain, config)))
            for logger in loggers:
                log_again(logger, [c for c in directory.checkpoints() if c.step <= fit.step])
        first, last = fit.step, None
        listener.begin(config, fit.step)
        steps = training_of(config, data).steps
        began = time.perf_counter()
        while fit.step < steps:
            if fit.advance():
                found = fit.checkpoint()
                last = found[0]
                if chosen is None or last.val_score >= chosen.val_score:
                    chosen = _Chosen.now(fit.model, last)
                seconds = before + time.perf_counter() - began
                kept = {"fit": fit.state_dict(), "chosen": vars(chosen), "seconds": seconds}
                content = partial(chosen.content, plain, config)
                better = content if chosen.step == last.step else None
                ranks.first(partial(_keep, directory, *found, better, kept, loggers))
            now = time.perf_counter() - began
            listener.step(Status(fit.step, steps, fit.step - first, now, fit.waited, last))
        seconds = before + time.perf_counter() - began
    for logger in loggers:
        end(logger)
    ranks.first(
        lambda: directory.finish({"seconds": seconds, "warnings": list(warned), "notes": notes})
    )


def _begin(
    config: TrainConfig, data: DomainData, ranks: Ranks, names: tuple[object, ...]
) -> tuple[Fit, Parts, list[str]]:
    """A training before its first step, which samples do what, and what there is to tell of it."""
    parts = Parts.of(data, config.held_out, _trial(config, data))
    model, notes = _model(config, data, parts)
    model.to(ranks.device)
    if config.precision != "32":
        _compute_within(ranks.autocast, model)
    if config.compile:
        model.compile()
    scaler = GradScaler(ranks.device.type, enabled=config.precision == "16-mixed")
    training, place = training_of(config, data), Place(ranks, scaler)
    fit = Fit(data, parts, model, method_of(config), training, names, place, config.augment)
    return fit, parts, notes


def _trial(config: TrainConfig, data: DomainData) -> tuple[object, ...]:
    """What the split derives from, whichever domain is held out."""
    return config.seed, data.name, f"trial {config.trial}"


def _keep(
    directory: RunDirectory,
    checkpoint: Checkpoint,
    sealed: Sealed,
    videos: SealedVideos,
    better: Callable[[], bytes] | None,
    state: Mapping[str, Any],
    loggers: Sequence[Any],
) -> None:
    """Write down a checkpoint, the model if it is a better one, and the state to go on from."""
    directory.append(checkpoint, sealed, videos)
    if better is not None:
        directory.save_model(better())
    directory.save_state(state)
    for logger in loggers:
        logger.log_metrics(logged(checkpoint), checkpoint.step)
        logger.save()


def _model(config: TrainConfig, data: DomainData, parts: Parts) -> tuple[nn.Module, list[str]]:
    """The model before the first step, and what there is to tell of it."""
    assert config.backbone is not None
    model = make_model(config.backbone, data.name, parts.preparation.shape, data.outputs)
    notes = [*parts.preparation.notes]
    if config.weights is not None:
        report = load_weights(model, Path(config.weights))
        fresh = ", ".join(report.head) or "none"
        notes.append(f"{report.loaded} tensors of weights loaded; with fresh values: {fresh}")
    if config.frozen_norms and not (count := freeze_norms(model)):
        raise DataError(
            f"there are no norms to freeze in {config.backbone}: it has no BatchNorm with running "
            f"statistics. Leave --frozen-norms out."
        )
    if config.frozen_norms:
        notes.append(f"{count} norms with frozen statistics")
    return model, notes


@dataclass(frozen=True)
class _Chosen:
    """The model with the best source validation so far, the latest of equals."""

    step: int
    val_score: float
    weights: Mapping[str, Tensor]

    @classmethod
    def now(cls, model: nn.Module, checkpoint: Checkpoint) -> _Chosen:
        """The model as it is."""
        weights = {
            name: tensor.detach().cpu().clone().contiguous()
            for name, tensor in model.state_dict().items()
        }
        return cls(checkpoint.step, checkpoint.val_score, weights)

    def content(self, plain: Trained, config: TrainConfig) -> bytes:
        """What its file holds."""
        facts = {
            "method": config.method,
            "hyperparameters": dict(config.hyperparameters),
            "step": self.step,
            "source_validation": self.val_score,
            "version": domaingrad.__version__,
        }
        return replace(plain, facts=facts).content(self.weights)


def _trained(config: TrainConfig, data: DomainData, parts: Parts, model: nn.Module) -> Trained:
    assert config.backbone is not None
    return Trained(
        model=model,
        backbone=config.backbone,
        data=data.name,
        preparation=parts.preparation,
        task=data.task,
        classes=data.classes,
        labels=parts.labels,
        sources=tuple(parts.sources),
        held_out=config.hold_out,
        facts={},
    )


def _compute_within(context: Callable[[], AbstractContextManager[Any]], model: nn.Module) -> None:
    """Let the forward pass, and it alone, compute in lower precision."""
    forward = model.forward

    @wraps(forward)
    def within(*inputs: Any, **options: Any) -> Any:
        with context():
            return forward(*inputs, **options)

    model.forward = within
