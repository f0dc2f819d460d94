"""Loggers of Lightning, which get what the records get."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from domaingrad.bench.disk import require_no_link
from domaingrad.bench.domains import DataError
from domaingrad.bench.names import look_up

from .directory import RunDirectory
from .trainer import Checkpoint

LOGGERS: dict[str, tuple[str, str, str]] = {
    "csv": ("lightning_fabric.loggers", "CSVLogger", "lightning-fabric"),
    "tensorboard": ("lightning_fabric.loggers", "TensorBoardLogger", "tensorboard"),
    "wandb": ("lightning.pytorch.loggers", "WandbLogger", "lightning wandb"),
    "mlflow": ("lightning.pytorch.loggers", "MLFlowLogger", "lightning mlflow"),
}
"""Loggers by name: Lightning's module and class, and what to install."""


def logger_class(name: str) -> Any:
    """The class of a logger.

    Raises:
        UnknownNameError: no such logger.
        DataError: it cannot be imported.
    """
    module, kind, package = look_up("logger", name, LOGGERS)
    try:
        return getattr(import_module(module), kind)
    except (ImportError, RuntimeError) as error:
        raise DataError(
            f"the logger {name} cannot be imported ({error}); install what it needs with pip "
            f"install {package}."
        ) from error


def logger_in(name: str, directory: RunDirectory) -> Any:
    """A logger, its files in the directory.

    Raises:
        DataError: what it needs is not installed.
    """
    kind = logger_class(name)
    logs = directory.path / "logs"
    for place in [logs, *(logs.iterdir() if logs.is_dir() else ())]:
        require_no_link(place)
    if name == "csv":  # it would remove, with a warning, what is written again on going on
        shutil.rmtree(logs / name, ignore_errors=True)
    try:
        if name in ("csv", "tensorboard"):
            return kind(str(directory.path), name="logs", version=name)
        return kind(save_dir=str(logs))
    except ImportError as error:
        raise DataError(
            f"the logger {name} needs what is not installed ({error}); install it with pip install "
            f"{LOGGERS[name][2]}."
        ) from error


def log_again(logger: Any, checkpoints: Sequence[Checkpoint]) -> None:
    """Tell a logger that keeps one file what was told before; the others keep what they have."""
    if type(logger).__name__ == "CSVLogger":
        for checkpoint in checkpoints:
            logger.log_metrics(logged(checkpoint), checkpoint.step)


def logged(checkpoint: Checkpoint) -> dict[str, float]:
    """What loggers get of a checkpoint: nothing sealed."""
    known = {
        "loss": checkpoint.loss,
        "source_validation": checkpoint.val_score,
        "agreement": checkpoint.agreement,
        **checkpoint.metrics,
    }
    return {name: value for name, value in known.items() if value is not None}


def end(logger: Any) -> None:
    """Once a training has ended; else the next one of this process would go on in wandb's run."""
    logger.finalize("success")
    if type(logger).__name__ == "WandbLogger":
        logger.experiment.finish()
