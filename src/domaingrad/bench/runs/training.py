"""Train one model on anyone's data, with a domain held out or none."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import wraps
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Generator, Tensor, nn
from torch.amp import GradScaler

import domaingrad
from domaingrad.bench.domains import DataError, DomainData, News, Task, load
from domaingrad.bench.models import freeze_norms, load_weights
from domaingrad.bench.names import look_up
from domaingrad.bench.protocol import generator_of, seed_of, training_domain_validation

from .directory import RECORDS, RunDirectory
from .files import RunDirectoryError
from .fitting import (
    DIVERGED,
    Checkpoint,
    Fit,
    HeldOutScores,
    Parts,
    Place,
    require_sources,
)
from .isolation import isolated, noted_warnings
from .settings import Precision, TrainConfig, method_of, resolved, training_of, written
from .trained import Trained, make_model

NONE = "none"
"""What stands for no domain on the command line."""

ESTIMATE = "estimate"
"""Where, in the directory of a run that holds out none, the runs are that hold out one each."""

LOGGERS: dict[str, tuple[str, str, str]] = {
    "csv": ("lightning_fabric.loggers", "CSVLogger", "lightning-fabric"),
    "tensorboard": ("lightning_fabric.loggers", "TensorBoardLogger", "tensorboard"),
    "wandb": ("lightning.pytorch.loggers", "WandbLogger", "lightning wandb"),
    "mlflow": ("lightning.pytorch.loggers", "MLFlowLogger", "lightning mlflow"),
}
"""Loggers by name: Lightning's module and class, and what to install."""


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
        loggers: names in :data:`LOGGERS`, which get what the records get.
        patience: seconds to wait for another process that is at work in ``out``.

    Raises:
        DataError: the data cannot be read, or not be trained on so.
        RunDirectoryError: the directory holds another run, another process, or a full disk.
        ValueError: a name or number in the settings that does not exist or does not fit, and
            weights likewise.
    """
    listener = listener or Listener()
    for name in loggers:
        _logger_class(name)
    if data is None:
        data = load(config.data, config.data_options, listener.news, drawing(config))
        for note in data.notes:
            listener.news.say(f"Note: {note}")
    if config.hold_out is None and NONE in data.domains:
        raise DataError(
            f"a domain is called {NONE!r}, which stands for no domain held out; rename it."
        )
    config = resolved(config, data)
    directory = RunDirectory(out)
    with directory.alone(patience):
        if not directory.begun:
            _try_out(config, data)
        directory.begin(written(config, data))
        estimate = None
        if config.hold_out is None:
            estimate = Estimate(
                {
                    name: train(
                        replace(config, hold_out=name),
                        out / ESTIMATE / path_name(name),
                        listener,
                        data=data,
                        loggers=loggers,
                    )
                    for name in held_out_in_turn(data)
                }
            )
        if directory.finished() is None:
            _run(config, data, directory, listener, loggers)
        return _result(directory, config, data, estimate)


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


def _try_out(config: TrainConfig, data: DomainData) -> None:
    """See that the training can begin, before anything is written down."""
    if config.hold_out is None:
        for name in held_out_in_turn(data):
            left = [each for each in data.domains if each not in (name, *data.never_sources)]
            require_sources(method_of(config), left)
    with isolated(0):
        fit_of(config, data)


def fit_of(config: TrainConfig, data: DomainData) -> Fit:
    """A training that is begun, but for the record: to see that it can be, and how fast."""
    fabric = _fabric(config, "32")
    if config.precision == "16-mixed" and fabric.device.type == "cpu":
        raise DataError("16-mixed needs a GPU, and there is none; use bf16-mixed or 32.")
    fabric = _fabric(config, config.precision)
    trial = (config.seed, data.name, f"trial {config.trial}")
    parts = Parts.of(data, config.held_out, trial)
    model, _ = _model(config, data, parts)
    model.to(fabric.device)
    if config.precision != "32":
        _compute_within(fabric.autocast, model)
    scaler = GradScaler(fabric.device.type, enabled=config.precision == "16-mixed")
    training = training_of(config, data)
    place = Place(fabric.device, scaler)
    return Fit(data, parts, model, method_of(config), training, trial, place, config.augment)


def _run(
    config: TrainConfig,
    data: DomainData,
    directory: RunDirectory,
    listener: Listener,
    loggers: Sequence[str],
) -> None:
    trial = (config.seed, data.name, f"trial {config.trial}")
    names = (*trial, f"held out {' and '.join(config.held_out) or None}")
    fabric = _fabric(config, config.precision, [_logger(name, directory) for name in loggers])
    with isolated(seed_of(*names, "initialisation")), noted_warnings() as warned:
        parts = Parts.of(data, config.held_out, trial)
        model, notes = _model(config, data, parts)
        for note in notes:
            listener.news.say(f"Note: {note}")
        model.to(fabric.device)
        plain = _trained(config, data, parts, model)
        if config.precision != "32":
            _compute_within(fabric.autocast, model)
        if config.compile:
            model.compile()
        scaler = GradScaler(fabric.device.type, enabled=config.precision == "16-mixed")
        place = Place(fabric.device, scaler)
        training = training_of(config, data)
        fit = Fit(data, parts, model, method_of(config), training, names, place, config.augment)
        before, chosen = 0.0, None
        if state := directory.state():
            before, chosen = state["seconds"], _Chosen(**state["chosen"])
            fit.load_state_dict(state["fit"])
            # What was written after that state belongs to steps that are done again.
            directory.save_model(chosen.content(plain, config))
            for logger in fabric.loggers:
                _log_again(logger, [c for c in directory.checkpoints() if c.step <= fit.step])
        first, last = fit.step, None
        listener.begin(config, fit.step)
        began = time.perf_counter()
        while fit.step < training.steps:
            if fit.advance():
                last, sealed, videos = fit.checkpoint()
                directory.append(last, sealed, videos)
                if chosen is None or last.val_score >= chosen.val_score:
                    chosen = _Chosen.now(model, last)
                    directory.save_model(chosen.content(plain, config))
                seconds = before + time.perf_counter() - began
                directory.save_state(
                    {"fit": fit.state_dict(), "chosen": vars(chosen), "seconds": seconds}
                )
                fabric.log_dict(_logged(last), fit.step)
                for logger in fabric.loggers:
                    logger.save()
            now = time.perf_counter() - began
            listener.step(Status(fit.step, training.steps, fit.step - first, now, fit.waited, last))
        seconds = before + time.perf_counter() - began
    for logger in fabric.loggers:
        logger.finalize("success")
    directory.finish({"seconds": seconds, "warnings": list(warned), "notes": notes})


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


def _fabric(config: TrainConfig, precision: Precision, loggers: Sequence[Any] = ()) -> Any:
    """Lightning Fabric, which knows devices, precision and loggers."""
    from lightning_fabric import Fabric  # noqa: PLC0415 - takes seconds to import

    try:
        return Fabric(
            accelerator=config.accelerator, devices=1, precision=precision, loggers=list(loggers)
        )
    except (ValueError, RuntimeError) as error:
        raise DataError(f"--accelerator {config.accelerator} cannot be used: {error}") from error


def _logger_class(name: str) -> Any:
    module, kind, package = look_up("logger", name, LOGGERS)
    try:
        return getattr(import_module(module), kind)
    except (ImportError, RuntimeError) as error:
        raise DataError(
            f"the logger {name} cannot be imported ({error}); install what it needs with pip "
            f"install {package}."
        ) from error


def _logger(name: str, directory: RunDirectory) -> Any:
    """A logger, its files in the directory."""
    kind = _logger_class(name)
    if name == "csv":  # it would remove, with a warning, what is written again on going on
        shutil.rmtree(directory.path / "logs" / name, ignore_errors=True)
    try:
        if name in ("csv", "tensorboard"):
            return kind(str(directory.path), name="logs", version=name)
        return kind(save_dir=str(directory.path / "logs"))
    except ImportError as error:
        raise DataError(
            f"the logger {name} needs what is not installed ({error}); install it with pip install "
            f"{LOGGERS[name][2]}."
        ) from error


def _log_again(logger: Any, checkpoints: Sequence[Checkpoint]) -> None:
    """Tell a logger that keeps one file what was told before; the others keep what they have."""
    if type(logger).__name__ == "CSVLogger":
        for checkpoint in checkpoints:
            logger.log_metrics(_logged(checkpoint), checkpoint.step)


def _logged(checkpoint: Checkpoint) -> dict[str, float]:
    known = {
        "loss": checkpoint.loss,
        "source_validation": checkpoint.val_score,
        "agreement": checkpoint.agreement,
        **checkpoint.numbers,
    }
    return {name: value for name, value in known.items() if value is not None}
