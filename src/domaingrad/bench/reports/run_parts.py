"""The samples of a run that is there, split as they were."""

from __future__ import annotations

from domaingrad.bench.domains import DataError, DomainData, News, load
from domaingrad.bench.protocol import generator_of
from domaingrad.bench.runs.directory import RunDirectory
from domaingrad.bench.runs.settings import DECIDED_BY, config_from
from domaingrad.bench.runs.trained import TrainedModel
from domaingrad.bench.runs.trainer import Splits


def model_of_run(directory: RunDirectory) -> TrainedModel:
    """The model that a run selected, once the run's plug-ins are imported.

    Raises:
        RunDirectoryError: there is no model yet.
        PluginError: a plug-in cannot be imported.
    """
    config_from(directory.config())
    return TrainedModel.load(directory.model)


def parts_of_run(
    directory: RunDirectory, trained: TrainedModel, news: News
) -> tuple[DomainData, Splits]:
    """Read a run's own data again, and split them again.

    Raises:
        DataError: the data cannot be read, or are not those that the run was trained on.
    """
    settings = directory.config()
    config = config_from(settings)
    drawing = generator_of(config.seed, config.data, f"trial {config.trial}", "data")
    own = load(config.data, config.data_options, news, drawing)
    trained_on = (trained.data, (settings.get(DECIDED_BY) or {}).get("data"))
    if (own.name, own.fingerprint) != trained_on:
        raise DataError(
            f"{config.data} has changed since {directory.path} was trained on it, so its splits "
            f"cannot be told; name it as --data of evaluate, to evaluate on all of it."
        )
    return own, Splits.of(own, config.held_out, (config.seed, own.name, f"trial {config.trial}"))
