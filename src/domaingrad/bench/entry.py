"""Training from Python, with data that are there already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from .domains import IN_MEMORY, from_datasets
from .runs.resumable import Listener
from .runs.settings import TrainConfig
from .runs.training import Result
from .runs.training import train as run


def train(
    domains: Mapping[str, Dataset[Any]],
    out: str | Path,
    *,
    hold_out: str | None,
    name: str = "data",
    classes: Sequence[str] | None = None,
    listener: Listener | None = None,
    loggers: Sequence[str] = (),
    **settings: Any,
) -> Result:
    """Train one model on domains in memory, as ``domaingrad train`` does on those on disk.

    Called again with the same arguments it goes on where it was left, or tells what came out.

    Args:
        domains: one map-style data set a domain; see
            :func:`~domaingrad.bench.domains.from_datasets`.
        out: directory of the run.
        hold_out: the domain that training never sees, or ``None``.
        name: what the data are called; seeds derive from it.
        classes: names of the classes.
        listener: who hears how it goes.
        loggers: names of loggers beside the records.
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
    data = from_datasets(domains, name, classes)
    config = TrainConfig(data=f"{IN_MEMORY}:{name}", hold_out=hold_out, **settings)
    return run(config, Path(out), listener, data=data, loggers=loggers)
