"""Train one model on anyone's data, with a domain held out or none."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any

from torch import Generator, Tensor, nn
from torch.amp import GradScaler

import domaingrad
from domaingrad.bench.domains import DataError, DomainData, News, Task, load
from domaingrad.bench.models import freeze_norms, load_weights
from domaingrad.bench.protocol import generator_of, seed_of, training_domain_validation

from .directory import RECORDS, RunDirectory, flat
from .files import RunDirectoryError
from .fitting import (
    DIVERGED,
    Checkpoint,
    Fit,
    HeldOutScores,
    Parts,
    Place,
    Sealed,
    SealedVideos,
    require_sources,
)
from .isolation import isolated, noted_warnings
from .launching import alone_on, fabric_of, is_first, joined, require_among_processes
from .loggers import end, log_again, logged, logger_class, logger_in
from .ranks import LostProcessError, Ranks, in_short, is_lost_process
from .settings import TrainConfig, checked, method_of, resolved, training_of, written
from .trained import Trained, make_model

NONE = "none"
"""What stands for no domain on the command line."""

ESTIMATE = "estimate"
"""Where, in the directory of a run that holds out none, the runs are that hold out one each."""


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
class Result:
    """A training that has ended; its held-out scores are opened by :meth:`RunDirectory.unseal`."""

    directory: RunDirectory
    config: TrainConfig
    task: Task
    selected: Checkpoint
    held_out: HeldOutScores | None
    """Of the selected checkpoint."""
    estimate: Estimate | None
    """Where none is held out."""
    seconds: float
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def model(self) -> Trained:
        """The selected model."""
        return Trained.load(self.directory.model)


@dataclass(frozen=True)
class Estimate:
    """What to expect on a new domain: each source held out in turn, from a model of its own."""

    results: Mapping[str, Result]

    @property
    def scores(self) -> dict[str, float]:
        """Score on each domain while it was held out, at the selected checkpoint."""
        return {
            name: result.held_out.train
            for name, result in self.results.items()
            if result.held_out is not None
        }


@dataclass(frozen=True)
class _Carried:
    """How trainings are carried out: among which processes, and who hears of them."""

    ranks: Ranks
    listener: Listener
    loggers: Sequence[str]


def train(
    config: TrainConfig,
    out: Path,
    listener: Listener | None = None,
    *,
    data: DomainData | None = None,
    loggers: Sequence[str] = (),
    patience: float = 0.0,
) -> Result:
    """Train as ``config`` says, or go on where ``out`` shows that it was left.

    The same settings give the same numbers, to the last bit on a CPU, whether or not the training
    was cut off in between (checked with the same number of threads and version of PyTorch). With
    ``hold_out=None`` each domain is first held out in turn by a training of its own, in
    ``out/estimate``, so that there is an estimate for a domain never seen.

    Args:
        config: what is trained, how.
        out: the directory of the run.
        listener: who hears how it goes.
        data: the data, where ``config.data`` is only their name.
        loggers: names in :data:`~domaingrad.bench.runs.loggers.LOGGERS`.
        patience: seconds to wait for another process that is at work in ``out``.

    Raises:
        DataError: the data cannot be read, or not be trained on so.
        RunDirectoryError: the directory holds another run, another process, or a full disk.
        ValueError: a name or number in the settings that does not exist or does not fit, and
            weights likewise.
    """
    listener = listener or Listener()
    for name in loggers:
        logger_class(name)
    config, data = _read(config, data, listener)
    carried = _Carried(Ranks(partial(alone_on, config)), listener, loggers)
    return _train(config, out, data, carried, patience)


def train_together(
    config: TrainConfig,
    out: Path,
    listener: Listener | None = None,
    *,
    processes: tuple[int, int],
    loggers: Sequence[str] = (),
) -> Result:
    """The same by several processes, each of which comes here; the first one starts the others.

    They are started by running the program again that called this, with its arguments, unless
    ``torchrun`` or another launcher has. All draw the same batches, and each computes on a part of
    the samples, so that the numbers are those of one process up to rounding, but for what the model
    draws itself and for BatchNorm. The first process alone writes.

    Args:
        config: what is trained, how.
        out: the directory of the run.
        listener: who hears how it goes, at the first process.
        processes: how many on each node, each with a device of its own, and how many nodes.
        loggers: names in :data:`~domaingrad.bench.runs.loggers.LOGGERS`.

    Raises:
        DataError, RunDirectoryError, ValueError: as :func:`train`; and a method or a number of
            processes with which that cannot be.
        FailedElsewhereError: another process has raised that.
        LostProcessError: another process has ended, or does not answer.
    """
    for name in loggers:
        logger_class(name)
    config = checked(config)
    require_among_processes(method_of(config))
    fabric = fabric_of(config, *processes)
    heard = (listener if is_first(fabric) else None) or Listener()

    def prepare() -> tuple[TrainConfig, DomainData]:
        ready, data = _read(config, None, heard)
        _require_work(ready, data, prod(processes))
        _try_out(ready, data, Ranks(lambda: fabric))
        return ready, data

    try:
        ranks, (ready, data) = joined(fabric, prepare)
        ranks.require_same(flat(written(ready, data, ranks.world)))
        return _train(ready, out, data, _Carried(ranks, heard, loggers), 0.0)
    except RuntimeError as error:
        if not is_lost_process(error):
            raise
        raise LostProcessError(
            f"another process of this training has ended, or does not answer ({in_short(error)}); "
            f"what it had to say stands above, or on its node. What was written is whole; the same "
            f"command goes on from the last checkpoint."
        ) from error


def _read(
    config: TrainConfig, data: DomainData | None, listener: Listener
) -> tuple[TrainConfig, DomainData]:
    """The data, and the settings with nothing left open."""
    if data is None:
        data = load(config.data, config.data_options, listener.news, drawing(config))
        for note in data.notes:
            listener.news.say(f"Note: {note}")
    if config.hold_out is None and NONE in data.domains:
        raise DataError(
            f"a domain is called {NONE!r}, which stands for no domain held out; rename it."
        )
    return resolved(config, data), data


def _train(
    config: TrainConfig, out: Path, data: DomainData, carried: _Carried, patience: float
) -> Result:
    """Train as resolved settings say; a collective call."""
    ranks = carried.ranks
    directory = ranks.first(lambda: RunDirectory(out))
    with ExitStack() as held:
        ranks.first(lambda: held.enter_context(directory.alone(patience)))
        # Several processes have tried it out before they met.
        if ranks.world == 1 and not directory.begun:
            _try_out(config, data, ranks)
        ranks.first(lambda: directory.begin(written(config, data, ranks.world)))
        estimate = None
        if config.hold_out is None:
            estimate = Estimate(
                {
                    name: _train(
                        resolved(replace(config, hold_out=name), data),
                        out / ESTIMATE / path_name(name),
                        data,
                        carried,
                        0.0,
                    )
                    for name in held_out_in_turn(data)
                }
            )
        if ranks.first(directory.finished) is None:
            _run(config, data, directory, carried)
        return ranks.first(lambda: _result(directory, config, data, estimate))


def path_name(name: str) -> str:
    """The name of a domain as that of a directory, another for another domain.

    >>> path_name("+90%"), path_name("a b")
    ('+90%', 'a b')
    >>> path_name("../a").startswith(".._a-")
    True
    """
    plain = re.sub(r"[^\w.+%° -]", "_", name)
    if plain == name and name.strip(". ") == name:
        return name
    return f"{plain}-{sha256(name.encode()).hexdigest()[:8]}"


def held_out_in_turn(data: DomainData) -> list[str]:
    """Domains that an estimate holds out: those that leave a source to train on."""
    several = len(data.domains) - len(data.never_sources) > 1
    return [name for name in data.domains if several or name in data.never_sources]


def drawing(config: TrainConfig) -> Generator:
    """What a built-in data set is drawn from."""
    return generator_of(*drawing_names(config))


def drawing_names(config: TrainConfig) -> tuple[object, ...]:
    """What that derives from."""
    return config.seed, config.data, f"trial {config.trial}", "data"


def _sources(config: TrainConfig, data: DomainData) -> list[list[str]]:
    """The source domains of a training, and of those that hold out one each for its estimate."""
    left = [name for name in data.domains if name not in (*config.held_out, *data.never_sources)]
    if config.hold_out is not None:
        return [left]
    turns = [[each for each in left if each != name] for name in held_out_in_turn(data)]
    return [left, *turns]


def _require_work(config: TrainConfig, data: DomainData, processes: int) -> None:
    """See that each process has samples in each step.

    Raises:
        DataError: one has not.
    """
    batch = training_of(config, data).batch
    fewest = batch * min(len(sources) for sources in _sources(config, data))
    if fewest < processes:
        raise DataError(
            f"a step has {fewest} samples, {batch} of each source domain, and some of {processes} "
            f"processes would have none. Use fewer --devices or --nodes, or a greater --batch."
        )


def _try_out(config: TrainConfig, data: DomainData, ranks: Ranks) -> None:
    """See that the training can begin, before anything is written down."""
    if config.hold_out is None:
        for sources in _sources(config, data):
            require_sources(method_of(config), sources)
    with isolated(0):
        fit_of(config, data, ranks)


def fit_of(config: TrainConfig, data: DomainData, ranks: Ranks | None = None) -> Fit:
    """A training that is begun, but for the record: to see that it can be, and how fast."""
    ranks = ranks or Ranks(partial(alone_on, config))
    trial = (config.seed, data.name, f"trial {config.trial}")
    parts = Parts.of(data, config.held_out, trial)
    model, _ = _model(config, data, parts)
    model.to(ranks.device)
    if config.precision != "32":
        _compute_within(ranks.autocast, model)
    scaler = GradScaler(ranks.device.type, enabled=config.precision == "16-mixed")
    training = training_of(config, data)
    place = Place(ranks, scaler)
    return Fit(data, parts, model, method_of(config), training, trial, place, config.augment)


def _run(config: TrainConfig, data: DomainData, directory: RunDirectory, carried: _Carried) -> None:
    ranks, listener = carried.ranks, carried.listener
    trial = (config.seed, data.name, f"trial {config.trial}")
    names = (*trial, f"held out {' and '.join(config.held_out) or None}")
    loggers: list[Any] = []
    ranks.first(lambda: loggers.extend(logger_in(name, directory) for name in carried.loggers))
    with isolated(seed_of(*names, "initialisation")), noted_warnings() as warned:
        parts = Parts.of(data, config.held_out, trial)
        model, notes = _model(config, data, parts)
        for note in notes:
            listener.news.say(f"Note: {note}")
        model.to(ranks.device)
        plain = _trained(config, data, parts, model)
        if config.precision != "32":
            _compute_within(ranks.autocast, model)
        if config.compile:
            model.compile()
        scaler = GradScaler(ranks.device.type, enabled=config.precision == "16-mixed")
        place = Place(ranks, scaler)
        training = training_of(config, data)
        fit = Fit(data, parts, model, method_of(config), training, names, place, config.augment)
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
        began = time.perf_counter()
        while fit.step < training.steps:
            if fit.advance():
                found = fit.checkpoint()
                last = found[0]
                if chosen is None or last.val_score >= chosen.val_score:
                    chosen = _Chosen.now(model, last)
                seconds = before + time.perf_counter() - began
                kept = {"fit": fit.state_dict(), "chosen": vars(chosen), "seconds": seconds}
                content = partial(chosen.content, plain, config)
                better = content if chosen.step == last.step else None
                ranks.first(partial(_keep, directory, *found, better, kept, loggers))
            now = time.perf_counter() - began
            listener.step(Status(fit.step, training.steps, fit.step - first, now, fit.waited, last))
        seconds = before + time.perf_counter() - began
    for logger in loggers:
        end(logger)
    ranks.first(
        lambda: directory.finish({"seconds": seconds, "warnings": list(warned), "notes": notes})
    )


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


def _result(
    directory: RunDirectory, config: TrainConfig, data: DomainData, estimate: Estimate | None
) -> Result:
    ended = directory.finished()
    assert ended is not None
    known = directory.checkpoints()
    if not known:
        raise RunDirectoryError(
            f"{directory.path} has ended but its {RECORDS} is lost; restore it, or choose another "
            f"--out."
        )
    selected = known[training_domain_validation([each.val_score for each in known])]
    warned = list(ended["warnings"])
    if any(each.loss is None for each in known) and not any(DIVERGED in text for text in warned):
        warned.append(DIVERGED)
    return Result(
        directory=directory,
        config=config,
        task=data.task,
        selected=selected,
        held_out=None
        if config.hold_out is None
        else directory.unseal().get(selected.step, {}).get(config.hold_out),
        estimate=estimate,
        seconds=ended["seconds"],
        warnings=tuple(warned),
        notes=(*data.notes, *ended["notes"]),
    )


def _compute_within(context: Callable[[], AbstractContextManager[Any]], model: nn.Module) -> None:
    """Let the forward pass, and it alone, compute in lower precision."""
    forward = model.forward

    @wraps(forward)
    def within(*inputs: Any, **options: Any) -> Any:
        with context():
            return forward(*inputs, **options)

    model.forward = within
