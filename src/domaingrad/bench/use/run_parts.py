"""The samples of a run that is there, split as they were."""

from __future__ import annotations

from pathlib import Path

from domaingrad.bench.domains import DataError, DomainData, News
from domaingrad.bench.runs.directory import RunDirectory
from domaingrad.bench.runs.settings import DECIDED_BY, config_from, training_of
from domaingrad.bench.runs.trained import TrainedModel
from domaingrad.bench.runs.trainer import Splits
from domaingrad.bench.runs.training import data_of


def directory_of(run: str | Path | RunDirectory) -> RunDirectory:
    """The directory of a run that is there.

    Raises:
        RunDirectoryError: there is no run.
    """
    return run if isinstance(run, RunDirectory) else RunDirectory.existing(Path(run))


def model_of_run(run: str | Path | RunDirectory) -> TrainedModel:
    """The model that a run selected, once the run's plug-ins are imported.

    Raises:
        RunDirectoryError: there is no model yet.
        PluginError: a plug-in cannot be imported.
    """
    directory = directory_of(run)
    config_from(directory.config())
    return TrainedModel.load(directory.model)


def parts_of_run(
    directory: RunDirectory, trained: TrainedModel, news: News, own: DomainData | None = None
) -> tuple[DomainData, Splits]:
    """Read a run's own data again, unless they are there, and split them again.

    Raises:
        DataError: the data cannot be read, or are not those that the run was trained on.
    """
    settings = directory.config()
    config = config_from(settings)
    own = own or data_of(config, news)
    trained_on = (trained.data, (settings.get(DECIDED_BY) or {}).get("data"))
    if (own.name, own.fingerprint) != trained_on:
        raise DataError(
            f"{config.data} has changed since {directory.path} was trained on it, so its splits "
            f"cannot be told; name it as other data of evaluate, to evaluate on all of it."
        )
    trial, balance = (
        (config.seed, own.name, f"trial {config.trial}"),
        training_of(config, own).balance,
    )
    return own, Splits.of(own, config.held_out, trial, balance)
