"""Tables: a row a sample, one column the target and one the domain."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from domaingrad.bench.names import imported_when_used
from domaingrad.bench.schema import Option, settings

from .data import GROUP, HALF, DataError, DomainData, Groups, News, Reader, ReaderOptions
from .files import alike, listed
from .recipes import for_tables
from .table_columns import features_of
from .table_file import SUFFIXES, TableFile, Writing, each_text, open_table
from .table_rows import (
    WHOLE,
    Table,
    check_float32,
    encoded,
    in_calendar,
    is_numeric,
    odd_texts,
    places_in,
    short,
)

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = imported_when_used("pandas")

__all__ = ["MOST_CLASSES", "TABLE", "Table", "read_table"]

MOST_CLASSES, FEWEST_NUMBERS = 10, 40
"""Up to so many different whole numbers in the target are classes, and so many or more are numbers
to predict; between them one has to say which."""
MARKS = frozenset(
    ("NA", "N/A", "n/a", "na", "NaN", "nan", "NAN", "NULL", "null", "None", "#N/A", "?", "-", "--")
)
"""What usually stands for a missing number."""
FORM = 2
"""Number of what is made of a file; another number makes other data of the same file."""


@settings
class TableOptions(ReaderOptions):
    """What a reader of tables may be told."""

    target: Annotated[str | None, Option("Table, manifest: the column to predict.")] = None
    domain: Annotated[
        str | None,
        Option("Table, manifest: the column of domains; WILDS: a field of its metadata."),
    ] = None
    group: Annotated[str | None, GROUP] = None
    categorical: Annotated[tuple[str, ...], Option("Table: columns whose numbers are names.")] = ()
    drop: Annotated[tuple[str, ...], Option("Table: columns to leave out.")] = ()
    missing: Annotated[
        tuple[str, ...],
        Option("Table: texts for a missing value, as '?', beside the empty one.", commas=False),
    ] = ()
    task: Annotated[
        Literal["classification", "regression"] | None,
        Option(
            f"Table: classes, or a number. Up to {MOST_CLASSES} different whole numbers are "
            f"classes unless told."
        ),
    ] = None
    keep: Annotated[
        tuple[str, ...],
        Option("Table: columns to use though they look like row numbers, identifiers or texts."),
    ] = ()
    dates: Annotated[
        Literal["calendar", "drop"],
        Option("Table: columns of dates become year, month, weekday, hour and cycles, or go."),
    ] = "calendar"
    day_first: Annotated[
        bool | None, Option("Table: of dates as 1/2/2020.", "--day-first/--month-first")
    ] = None
    separator: Annotated[
        str | None,
        Option("Table: a character, or tab; found out unless told.", commas=False),
    ] = None
    decimal: Annotated[
        Literal[".", ","] | None, Option("Table: before fractions; found out unless told.")
    ] = None
    encoding: Annotated[
        str | None, Option("Table: as latin-1 or utf-16; found out unless told.")
    ] = None

    @property
    def writing(self) -> Writing:
        """How the file is written, as far as that is told."""
        return Writing(self.separator, self.decimal, self.encoding)

    @property
    def told_of_writing(self) -> tuple[str | None, ...]:
        """The same, where anything is told, for new files."""
        told = (self.separator, self.decimal, self.encoding)
        return told if any(told) else ()


def read_table(path: Path, options: TableOptions, news: News) -> DomainData:  # noqa: ARG001 – quick
    """A table whose rows are samples: as text, packed or not, or of Parquet or Excel.

    Columns in which every value is a number are numbers, unless ``categorical`` names them; dates
    become numbers of the calendar; others are categories. Columns that count the rows, identify
    them or hold very many texts are left out unless ``keep`` (or ``categorical``) names them.
    Whole numbers that name a domain, class or category are written without a fraction, 1.0 as 1.
    The target is classes if it is text or has up to 10 different whole numbers, and numbers if it
    has 40 or more or fractions, unless ``task`` tells. Of all of this there are notes.

    Args:
        path: the file.
        options: ``target`` and ``domain`` name columns and are required.
        news: hears nothing, as this is quick.

    Raises:
        DataError: no table, columns that are not there, fewer than two domains, classes or
            different numbers in the target, whole numbers that may be either, texts among numbers,
            or no column to predict from.
    """
    file = open_table(path, options.writing)
    target, domain = _told(file, options)
    named = [target, domain, *([options.group] if options.group else [])]
    features = [name for name in file.named if name not in {*named, *options.drop}]
    if not features:
        raise DataError(
            f"{path} has no column to predict from beside the target, the domain and those "
            f"dropped; it has {listed(file.named)}."
        )
    texts = {*named, *options.categorical}
    values = file.values([*features, *named], texts, options.missing)
    values[target] = file.in_plain(values[target])
    marks = () if options.missing else _marks(values[[*features, target]], options)
    missing = (*options.missing, *marks)
    if marks:
        values = file.values([*features, *named], texts, missing)
        values[target] = file.in_plain(values[target])
    found = features_of(
        values[features],
        values[domain],
        categorical=options.categorical,
        keep=options.keep,
        drop_dates=options.dates == "drop",
        day_first=options.day_first,
    )
    if not found.used:
        raise DataError(
            f"{path} has no column to predict from: "
            f"{'; '.join(f'{name!r} {why}' for name, why in found.left_out.items())}. Name those "
            f"to use by keep."
        )
    whole = values[named].notna().all(axis=1)
    values = values.loc[whole, [*found.used, *named]]
    for name in found.used:
        if name not in {*options.categorical, *found.dates} and _looks_numeric(values[name]):
            remedy = "list them as missing, or name the column as categorical"
            raise DataError(odd_texts(path, values[name], remedy))
    dates = tuple(found.dates.items())
    values = in_calendar(path, values, dates)
    used = [name for name in values if name not in named]
    numeric = tuple(name for name in used if is_numeric(values[name]))
    categorical = tuple(
        (name, _in_order(map(short, values[name].dropna().unique())))
        for name in used
        if name not in numeric
    )
    inputs = encoded(path, values, numeric, categorical)
    task = options.task or _guessed_task(path, values[target])
    labels, classes = _labels(path, values[target], task, options.least)
    of_domain = _as_names(values[domain])
    of_group = _as_names(values[options.group]) if options.group else None
    domains = {
        name: TensorDataset(inputs[rows], labels[rows])
        for name in _in_order(of_domain.unique())
        for rows in [torch.from_numpy(np.flatnonzero(of_domain == name))]
    }
    if len(domains) < options.least:
        raise DataError(
            f"{path} should have two domains or more in column {domain!r} and has "
            f"{listed(list(domains)) or 'none'}; name another column as domain."
        )
    _refuse_alike(path, list(domains), classes)
    table = Table(numeric, categorical, missing, dates, options.told_of_writing)
    told = (FORM, target, domain, options.group, options.drop, task, table.described())
    notes = [
        *_notes_on_target(target, values[target], classes, options),
        *file.notes(options.writing),
        *_notes_on_columns(file),
        *(
            [f"{listed([repr(mark) for mark in marks])} is taken as missing; missing overrules"]
            if marks
            else []
        ),
        *found.notes,
        *_notes_on_names(domains, classes),
    ]
    if not whole.all():
        what = "target, domain or group" if options.group else "target or domain"
        notes.append(f"{(~whole).sum():,} rows without a {what} are left out")
    return DomainData(
        name=_plain_name(path),
        domains=domains,
        preparation=table,
        recipe=for_tables([len(samples) for samples in domains.values()]),
        task=task,
        classes=classes,
        notes=tuple(notes),
        fingerprint=file.digest[:HALF] + sha256(repr(told).encode()).hexdigest()[:HALF],
        groups={}
        if of_group is None
        else {name: Groups.of(of_group[of_domain == name].tolist()) for name in domains},
    )


def _told(file: TableFile, options: TableOptions) -> tuple[str, str]:
    """The columns of the target and the domain, when all columns that are named are there."""
    if options.target is None or options.domain is None:
        raise DataError(
            f"{file.path}: expected to be told which column is predicted (target) and which "
            f"names the domain (domain); the columns are {listed(file.named, most=100)}."
        )
    named = [options.target, options.domain, *([options.group] if options.group else [])]
    file.check_columns(
        [*named, *options.categorical, *options.drop, *options.keep],
    )
    if twice := [name for name, times in Counter(named).items() if times > 1]:
        raise DataError(
            f"{file.path}: column {twice[0]!r} cannot be two of the target, the domain and the "
            f"group."
        )
    if dropped := {*named} & {*options.drop}:
        raise DataError(
            f"{file.path}: column {listed(sorted(dropped))} is the target, the domain or the "
            f"group, which cannot be dropped."
        )
    return options.target, options.domain


def _guessed_task(path: Path, target: pd.Series) -> Literal["classification", "regression"]:
    if _looks_numeric(target):
        remedy = "list them as missing, or say that the task is classification"
        raise DataError(odd_texts(path, target, remedy))
    numbers = pd.to_numeric(target, errors="coerce")
    if numbers.isna().any():
        return "classification"
    different = numbers.nunique()
    if (numbers % 1 != 0).any() or different >= FEWEST_NUMBERS:
        return "regression"
    if different > MOST_CLASSES:
        raise DataError(
            f"{path}: target {target.name!r} has {different} different whole numbers, from "
            f"{numbers.min():g} to {numbers.max():g}, which may be classes or numbers to predict; "
            f"say which by task, regression (in whose errors their order counts) or classification."
        )
    return "classification"


def _labels(
    path: Path, target: pd.Series, task: Literal["classification", "regression"], least: int
) -> tuple[Tensor, tuple[str, ...]]:
    """Labels and the names of classes, which are none for numbers."""
    if task == "regression":
        numbers = pd.to_numeric(target, errors="coerce")
        if numbers.isna().any():
            raise DataError(odd_texts(path, target, "list them as missing"))
        check_float32(path, target.name, numbers)
        if numbers.nunique() < least:
            raise DataError(f"{path}: target {target.name!r} has less than two different numbers.")
        return torch.from_numpy(numbers.to_numpy(dtype=np.float64, copy=True)), ()
    names = _as_names(target)
    classes = _in_order(names.unique())
    if len(classes) < least:
        raise DataError(
            f"{path}: target {target.name!r} should have two classes or more and has "
            f"{listed(classes) or 'none'}; name another column as target."
        )
    return torch.from_numpy(places_in(classes, names)).long(), classes


def _as_names(column: pd.Series) -> pd.Series:
    """Names as they are written, but whole numbers in short if all are."""
    whole = all(WHOLE.fullmatch(text) for text in column.unique())
    return each_text(column, short) if whole else column


def _in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Each name once; numbers as numbers if all are.

    >>> _in_order(["10", "9", "10"]), _in_order(["10", "9", "x"])
    (('9', '10'), ('10', '9', 'x'))
    """
    once = sorted(set(names))
    try:
        return tuple(sorted(once, key=_finite))
    except ValueError:
        return tuple(once)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _looks_numeric(column: pd.Series) -> bool:
    """Whether half of the different texts or more are numbers, but not all.

    Different ones are counted, as a mark for missing values may fill most rows.
    """
    if is_numeric(column):
        return False
    numbers = pd.to_numeric(pd.Series(column.dropna().unique()), errors="coerce").notna()
    return bool(not numbers.all() and numbers.mean() >= 0.5)


def _marks(values: pd.DataFrame, options: TableOptions) -> tuple[str, ...]:
    """Usual marks of what is missing, found in columns whose other texts are numbers."""
    found: dict[str, None] = {}
    for name in values:
        if name in options.categorical or not _looks_numeric(values[name]):
            continue
        once = pd.Series(values[name].dropna().unique(), dtype=object)
        odd = once[pd.to_numeric(once, errors="coerce").isna() | once.isin(MARKS)]
        if odd.isin(MARKS).all():
            found |= dict.fromkeys(odd)
    return tuple(sorted(found))


def _plain_name(path: Path) -> str:
    """A file's name without what says of which kind it is."""
    name = path.name.removesuffix(".gz")
    kind = next((each for each in SUFFIXES if name.lower().endswith(each)), "")
    return name[: len(name) - len(kind)]


def _notes_on_target(
    target: str, column: pd.Series, classes: Sequence[str], options: TableOptions
) -> Iterator[str]:
    if options.task is not None:
        return
    said = f"target {target!r} is taken as {f'{len(classes)} classes' if classes else 'numbers'}"
    if len(classes) > 2 and pd.to_numeric(column, errors="coerce").notna().all():
        said += f" ({', '.join(classes)}), whose order does not count"
    other = "regression" if classes else "classification"
    yield f"{said}; task={other} tells otherwise"


def _notes_on_columns(file: TableFile) -> Iterator[str]:
    if unnamed := len(file.columns) - len(file.named):
        yield (
            "1 column without a name is left out"
            if unnamed == 1
            else f"{unnamed:,} columns without a name are left out"
        )


def _refuse_alike(path: Path, domains: Sequence[str], classes: Sequence[str]) -> None:
    """A domain held out must not be among the sources under another spelling."""
    for kind, names in (("domains", domains), ("classes", classes)):
        if same := [repr(name) for group in alike(names) for name in group]:
            raise DataError(
                f"{path}: {kind} that differ only by case or spaces, {listed(same)}; write each in "
                f"one way."
            )


def _notes_on_names(domains: Mapping[str, TensorDataset], classes: Sequence[str]) -> Iterator[str]:
    for domain, samples in domains.items():
        present = {*samples.tensors[1].tolist()}
        if absent := [name for label, name in enumerate(classes) if label not in present]:
            yield f"domain {domain} has no row of class {listed(absent)}"


TABLE = Reader(
    kind="csv",
    summary="A table (CSV, TSV, Parquet, Excel) with a row per sample, one column the target and "
    "one the domain.",
    read=read_table,
    options=TableOptions,
)
