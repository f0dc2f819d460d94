"""From what a command line says of data to the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from torch import Generator

from domaingrad.bench.names import Registry, look_up

from . import digits, linear_toy, spirals
from .base import DataSet
from .data import DataError, DomainData, News, Reader, ReaderOptions
from .embeddings import EMBEDDINGS, READ, holds_vectors
from .folder import FOLDER
from .manifest import MANIFEST
from .mnist import COLORED_MNIST, ROTATED_MNIST
from .presets import PRESETS
from .table import TABLE
from .table_file import SUFFIXES
from .texts import TEXT
from .wilds import WILDS

DATA_SETS = Registry[DataSet]("data set")
"""Every data set that needs no download, by name."""
READERS = Registry[Reader]("reader")
"""Every kind of data that lies on disk, by name."""

for _data in (
    spirals.SPIRALS,
    linear_toy.LINEAR_TOY,
    digits.COLORED_DIGITS,
    digits.ROTATED_DIGITS,
):
    DATA_SETS.add(_data.name, _data)
for _reader in (
    FOLDER, TABLE, TEXT, MANIFEST, EMBEDDINGS, COLORED_MNIST, ROTATED_MNIST, WILDS,
    *PRESETS.values(),
):  # fmt: skip
    READERS.add(_reader.kind, _reader)

IN_MEMORY = "python"
"""What stands for a kind where data came from a Python program."""

BY_SUFFIX = {
    **dict.fromkeys((end + packed for end in SUFFIXES for packed in ("", ".gz")), TABLE),
    ".json": MANIFEST,
    **dict.fromkeys(READ.keys() - {".parquet"}, EMBEDDINGS),
}
"""What a path without a kind is, by its end; a directory is a folder of images."""


def load(
    data: str,
    options: Mapping[str, Any],
    news: News,
    generator: Generator,
    counted: bool = False,
) -> DomainData:
    """Read data from disk, or draw a built-in data set.

    Args:
        data: ``KIND:PATH`` with a kind of :data:`READERS`, the name of a built-in data set, or a
            path alone, of a folder of images, a ``.csv``, a ``.json`` manifest, or embeddings
            (``.npz``, ``.safetensors``, ``.parquet``).
        options: what the reader is told, by name.
        news: who hears of decoding.
        generator: from which is drawn what is drawn anew in each trial (:func:`is_drawn`).
        counted: whether data on disk are counted alone, and nothing is decoded.

    Raises:
        UnknownNameError: a name in no list.
        DataError: data that cannot be read, an option that the reader does not know.
        SettingError: a value that does not fit an option.
    """
    told = options_of(data, options)
    if data in DATA_SETS:
        return DATA_SETS[data].draw(generator)
    reader, place = reader_of(data)
    drawing = (generator,) if reader.draws else ()
    told = replace(told, counted=counted)
    return reader.read(Path(place).expanduser(), told, news, *drawing)


def is_drawn(data: str) -> bool:
    """Whether another trial has other data, or as many digits otherwise colored."""
    return data in DATA_SETS or reader_of(data)[0].draws


def options_of(data: str, options: Mapping[str, Any]) -> ReaderOptions:
    """The options of the reader of some data.

    Raises:
        DataError: one that it does not know.
        SettingError: a value that does not fit.
    """
    kind, schema = data, ReaderOptions
    if data not in DATA_SETS:
        reader, _ = reader_of(data)
        kind, schema = reader.kind, reader.options
    known = [entry.name for entry in fields(schema) if entry.name != "counted"]
    if unknown := [name for name in options if name not in known]:
        raise DataError(
            f"data of the kind {kind} take no {', '.join(unknown)}; they take "
            f"{', '.join(name for name in known if name != 'least') or 'no options'}. Leave it out."
        )
    return schema(**options)


def reader_of(data: str) -> tuple[Reader, str]:
    """The reader of data on disk, and their path.

    Raises:
        UnknownNameError, DataError: as :func:`load`.
    """
    kind, separator, place = data.partition(":")
    if not data.strip():
        raise DataError("expected data: KIND:PATH, a path or a built-in data set; found none.")
    if kind == IN_MEMORY:
        raise DataError(
            f"the data {place!r} were in the memory of a Python program; train on them from there, "
            f"and use the model by TrainedModel.load, or name data on disk."
        )
    if separator and (kind in READERS or not Path(data).exists()):
        reader = look_up("kind of data", kind, READERS)
        if not place:
            raise DataError(f"expected {kind}:PATH as data; found no path.")
        return reader, place
    return _reader_of(Path(data)), data


def told_to_hold_out(data: str, options: Mapping[str, Any]) -> str | None:
    """The domain that the options of a reader say to hold out, if they do.

    Raises:
        UnknownNameError, DataError: as :func:`load`.
    """
    told = options_of(data, options)
    return None if data in DATA_SETS else reader_of(data)[0].hold_out(told)


def _reader_of(path: Path) -> Reader:
    if path.is_dir():
        return FOLDER
    if path.suffix.lower() == ".parquet" and holds_vectors(path):
        return EMBEDDINGS
    for suffix, reader in BY_SUFFIX.items():
        if path.name.lower().endswith(suffix):
            return reader
    if path.exists():
        raise DataError(
            f"{path} is neither a folder nor a file that ends in {', '.join(BY_SUFFIX)}; say what "
            f"it is by KIND:PATH, with a kind of {', '.join(READERS)}."
        )
    if path.parent != Path():
        raise DataError(f"there is no {path}, neither as a folder nor as a file.")
    look_up("data set", str(path), {**DATA_SETS, **READERS})
    raise DataError(f"expected {path}:PATH as data, since they lie on disk; found no path.")
