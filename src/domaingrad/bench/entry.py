"""Training from Python, with data on disk or in memory, and the settings of a command."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from types import EllipsisType
from typing import Any

from torch.utils.data import Dataset

from .disk import MARK, in_name, require_ours
from .domains import (
    IN_MEMORY,
    DataError,
    DomainData,
    News,
    from_datasets,
    told_to_hold_out,
    write_embeddings,
)
from .domains.fetched import Fetch
from .methods import REFERENCES
from .names import import_plugins
from .runs.directory import CONFIG, read_config
from .runs.resumable import Listener
from .runs.settings import TrainConfig, config_from, deciding, plugins_of
from .runs.training import NONE, Result, data_of, train_together
from .runs.training import train as run
from .schema import SettingError


def train(
    data: TrainConfig | str | Mapping[str, Dataset[Any]],
    out: str | Path,
    *,
    hold_out: str | EllipsisType | None = ...,
    name: str = "data",
    classes: Sequence[str] | None = None,
    groups: Mapping[str, Sequence[object]] | None = None,
    fetch: Fetch = "once",
    listener: Listener | None = None,
    loggers: Sequence[str] = (),
    processes: tuple[int, int] = (1, 1),
    **settings: Any,
) -> Result:
    """Train one model, as ``domaingrad train`` does.

    Called again with the same arguments it goes on where it was left, or tells what came out.

    Args:
        data: all settings; or data on disk, in the words of the command line; or one map-style
            data set a domain, see :func:`~domaingrad.bench.domains.from_datasets`.
        out: directory of the run.
        hold_out: the domain that training never sees, or ``None``; required unless ``data`` are all
            settings.
        name: of data in memory; seeds derive from it.
        classes: names of the classes of data in memory.
        groups: of data in memory: by domain the group of each sample, which is never split.
        fetch: of data sets: whether their inputs are read once, or asked for each time they are
            needed, as where they are larger than memory; ``workers`` then fetch them ahead.
        listener: who hears how it goes.
        loggers: names of loggers beside the records.
        processes: that train together, on a node each with a device of its own, and nodes; of data
            on disk alone.
        settings: the rest of :class:`~domaingrad.bench.runs.settings.TrainConfig`, as
            ``method="and-mask"``, ``steps=500``, ``backbone="mlp"``.

    Returns:
        Where the model lies, its source validation and, of the domain held out, its score.

    Raises:
        ValueError: data, a name or a number that does not fit; a directory of another run.

    >>> import tempfile, torch
    >>> from torch.utils.data import TensorDataset
    >>> generator = torch.Generator().manual_seed(0)
    >>> x = torch.randn(3, 50, 4, generator=generator)
    >>> domains = {f"site-{k}": TensorDataset(x[k], (x[k, :, 0] > 0).long()) for k in range(3)}
    >>> with tempfile.TemporaryDirectory() as out:
    ...     result = train(domains, out, hold_out="site-2", method="and-mask", steps=60)
    >>> result.held_out.score > 0.8
    True
    """
    out = Path(out)
    if isinstance(data, TrainConfig):
        if settings or hold_out is not ...:
            raise DataError("expected all settings in the TrainConfig; found others beside it.")
        config = data
    elif hold_out is ...:
        raise DataError("expected hold_out: a domain, or None for none.")
    else:
        place = data if isinstance(data, str) else f"{IN_MEMORY}:{name}"
        config = TrainConfig(data=place, hold_out=hold_out, **settings)
    if processes != (1, 1):
        return train_together(config, out, listener, processes=processes, loggers=loggers)
    ready = from_datasets(data, name, classes, groups, fetch) if isinstance(data, Mapping) else None
    return run(config, out, listener, data=ready, loggers=loggers)


def embed(
    data: str,
    out: str | Path,
    *,
    backbone: str | None = None,
    weights: str | None = None,
    data_options: Mapping[str, Any] | None = None,
    accelerator: str = "auto",
    plugins: Sequence[str] = (),
    news: News | None = None,
) -> DomainData:
    """Embed all images of some data by a frozen backbone, once, as ``domaingrad embed`` does.

    What has been embedded before is found in the cache by its content; after a kill the same call
    goes on.

    Args:
        data: on disk, in the words of the command line.
        out: an ``.npz``, which ``train`` and ``sweep`` read.
        backbone: its name.
        weights: their file, where no package or directory has them.
        data_options: of the data's reader, by name.
        accelerator: ``cpu`` for the CPU; else what there is.
        plugins: modules that register backbones or readers.
        news: who hears how it goes.

    Returns:
        The embedded data.

    Raises:
        DataError, ValueError: data that cannot be read or are no images, a backbone or weights that
            do not fit, a file that cannot be written or is not ours.
    """
    path, news = Path(out), news or News()
    if path.suffix.lower() != ".npz":
        raise DataError(f"embeddings are written to an .npz; found {path}. Name it so.")
    require_ours([path], lambda _: MARK.encode())
    import_plugins(tuple(plugins))
    options = dict(data_options or {})
    config = TrainConfig(
        data, None, data_options={"least": 1, **options}, backbone=backbone, weights=weights,
        frozen_backbone=True, accelerator=accelerator,
    )  # fmt: skip
    found = data_of(config, news)
    write_embeddings(found, path)
    return found


def config_of(file: str | Path | None, given: Mapping[str, Any]) -> TrainConfig:
    """Settings of another run, and before them those that are given.

    Args:
        file: a run's directory or its settings.
        given: settings by name; of ``hyperparameters`` and ``data_options`` those that are given go
            before, where the method is the same.

    Raises:
        RunDirectoryError: no settings there.
        DataError: none for the data, or for the domain held out.
        SettingError: one that does not exist, or does not fit.
    """
    base: dict[str, Any] = {}
    if file is not None:
        place = Path(file)
        base = read_config(place / CONFIG if place.is_dir() else place)
        if given.get("method", base.get("method")) != base.get("method"):
            base.pop("hyperparameters", None)
    for name in ("hyperparameters", "data_options"):
        if not isinstance(base.get(name) or {}, Mapping):
            raise SettingError(f"{name}: expected settings by name; found {base[name]!r}.")
    nested = {
        name: {**(base.get(name) or {}), **(given.get(name) or {})}
        for name in ("hyperparameters", "data_options")
    }
    base = base | dict(given) | nested
    import_plugins(plugins_of(base))
    if "hold_out" not in base and "data" in base:
        chosen = told_to_hold_out(str(base["data"]), base["data_options"])
        base |= {} if chosen is None else {"hold_out": chosen}
    for name in ("data", "hold_out"):
        if name not in base:
            raise DataError(f"expected the setting {name}, given or in a file; found none.")
    if base["hold_out"] == NONE:
        base["hold_out"] = None
    return config_from(base)


def of_model(name: str) -> dict[str, str]:
    """The setting that a model is: the method of a reference, else the backbone.

    >>> of_model("random-forest"), of_model("mlp")
    ({'method': 'random-forest'}, {'backbone': 'mlp'})
    """
    return {"method" if name in REFERENCES else "backbone": name}


def name_of(config: TrainConfig) -> str:
    """A directory's name that the same settings find again."""
    held_out = "none" if config.hold_out is None else config.hold_out
    data = Path(config.data.rpartition(":")[2]).name
    words = in_name(
        "-".join(re.sub(r"[^\w.+-]+", "_", word) for word in (data, held_out, config.method))
    )
    digest = sha256(json.dumps(deciding(asdict(config)), sort_keys=True).encode()).hexdigest()[:8]
    return f"{words}-{digest}"
