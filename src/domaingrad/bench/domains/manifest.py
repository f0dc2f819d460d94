"""Data sets that are a list of image files with their labels and domains."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from domaingrad.bench.names import UnknownNameError, look_up
from domaingrad.bench.schema import Option, settings

from .data import GROUP, DataError, DomainData, News, Reader
from .files import listed, read_json
from .labelled import ImageOptions, LabelledImage, check_labelled, read_labelled
from .table_file import open_table

Row = Mapping[str, Any]


@settings
class ManifestOptions(ImageOptions):
    """What a reader of manifests may be told."""

    target: Annotated[str | None, Option("Manifest: the column to predict.")] = None
    domain: Annotated[str | None, Option("Manifest: the column of domains.")] = None
    group: Annotated[str | None, GROUP] = None


def read_manifest(path: Path, options: ManifestOptions, news: News) -> DomainData:
    """Read the images that a CSV or JSON file lists.

    The columns are ``path``, ``label`` and ``domain``; others are ignored. A CSV file begins with
    their names. A JSON file is a list of objects, or one object of lists of the same length. Paths
    are relative to the file's folder.

    Args:
        path: a file that ends in .csv or .json.
        options: of which target and domain name other columns than label and domain, group names
            one of what belongs together, and size and skip_unreadable are heeded.
        news: hears of the decoding.

    Raises:
        DataError: another kind of file, columns or values that are missing, images that are missing
            or listed twice, fewer than two domains or classes, unreadable images.
    """
    images = _images(path, options)
    check_labelled(images, str(path), options.least)
    return read_labelled(path.stem, images, options, news)


def _images(path: Path, options: ManifestOptions) -> list[LabelledImage]:
    columns = ["path", options.target or "label", options.domain or "domain"]
    columns += [options.group] if options.group else []
    rows = _rows(path, columns)
    images = []
    for number, row in enumerate(rows, start=1):
        file, label, domain, *group = (_text(path, number, row, column) for column in columns)
        images.append(LabelledImage(path.parent / file, domain, label, *group))
    if not images:
        raise DataError(f"{path} lists no images; expected one in each row.")
    missing = [image.path for image in images if not image.path.is_file()]
    if missing:
        raise DataError(
            f"{len(missing):,} of the {len(images):,} images that {path} lists do not exist: "
            f"{listed(missing)}. Paths are relative to {path.parent}."
        )
    repeated = [
        file for file, times in Counter(image.path for image in images).items() if times > 1
    ]
    if repeated:
        raise DataError(
            f"{path} lists images more than once ({len(repeated):,}): {listed(repeated)}. Keep one "
            f"row of each."
        )
    return images


def _rows(path: Path, columns: Sequence[str]) -> Sequence[Row]:
    if not path.is_file():
        raise DataError(f"expected a manifest at {path}, found no file.")
    if path.suffix.lower() == ".csv":
        file = open_table(path)
        file.check_columns(columns)
        values = file.values(columns, columns, missing=()).fillna("")
        rows: list[Row] = values.to_dict("records")
        return rows
    if path.suffix.lower() != ".json":
        raise DataError(f"expected a manifest that ends in .csv or .json, found {path.name}.")
    return _json_rows(path)


def _json_rows(path: Path) -> Sequence[Row]:
    content = read_json(path)
    if isinstance(content, list) and all(isinstance(row, dict) for row in content):
        return content
    if isinstance(content, dict) and all(isinstance(column, list) for column in content.values()):
        lengths = {name: len(column) for name, column in content.items()}
        if len({*lengths.values()}) > 1:
            raise DataError(f"{path}: expected lists of the same length, found {lengths}.")
        return [
            dict(zip(content, values, strict=True))
            for values in zip(*content.values(), strict=True)
        ]
    raise DataError(f"{path}: expected a list of objects, or an object of lists.")


def _text(path: Path, number: int, row: Row, column: str) -> str:
    """The value as text; numbers are names here, like any other."""
    if column not in row:
        try:
            look_up("column", column, row)
        except UnknownNameError as error:
            raise DataError(f"{path} row {number}: {error}") from error
    value = row[column]
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise DataError(
            f"{path} row {number}: expected a text or a whole number as {column}, found {value!r}."
        )
    return value if column == "path" else unicodedata.normalize("NFC", value.strip())


MANIFEST = Reader(
    kind="manifest",
    summary="Image files listed in a CSV or JSON file with their labels and domains.",
    read=read_manifest,
    options=ManifestOptions,
)
