"""How rows of a table become what a model sees."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from domaingrad.bench.names import imported_when_used

from .data import AS_USUAL, DataError, Preparation, Reading
from .dates import calendar
from .files import listed
from .table_file import TableFile, Writing, open_table, text_codes

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = imported_when_used("pandas")

WHOLE = re.compile(r"[+-]?\d+(\.0*)?")


@dataclass(frozen=True)
class Table(Preparation):
    """Rows with numbers filled in and standardised, and categories one-hot.

    A missing number becomes the sources' median, a missing category their most frequent one;
    numbers are then brought to mean 0 and standard deviation 1 over the sources. A category that
    the sources' training splits do not have is all zeros. That a value was missing is on purpose
    not told to the model: what a site does not measure can tell the site, and what it then learns
    does not hold at another.

    >>> table = Table(numeric=("age",), categorical=(("sex", ("f", "m")),), missing=())
    >>> table = table.fitted([torch.tensor([[20.0, 0.0], [40.0, 1.0]])])
    >>> table(torch.tensor([[40.0, 1.0], [torch.nan, torch.nan]]))
    tensor([[1., 0., 1.],
            [0., 1., 0.]])
    """

    kind: ClassVar[str] = "table"

    numeric: tuple[str, ...]
    """Columns of numbers, stored first; NaN where missing."""
    categorical: tuple[tuple[str, tuple[str, ...]], ...]
    """Columns of texts and their vocabularies, stored after as places in these; −1 for a text that
    is in none."""
    missing: tuple[str, ...]
    """Texts that stand for a missing value, beside the empty one."""
    dates: tuple[tuple[str, str], ...] = ()
    """Columns of dates and their formats; their parts are columns of numbers, ``NAME: PART``."""
    writing: tuple[str | None, ...] = ()
    """What was told of how the table is written as text."""
    numbers: tuple[tuple[str, float, float, float], ...] = ()
    """Of each column of numbers that is kept: name, median, mean and scale."""
    categories: tuple[tuple[str, str, tuple[str, ...]], ...] = ()
    """Of each column of texts that is kept: name, most frequent text and texts that are known."""
    left_out: tuple[tuple[str, str], ...] = ()
    """Columns that say nothing in the sources, and why."""

    @property
    def shape(self) -> tuple[int, ...]:
        """How many numbers a row becomes.

        Raises:
            RuntimeError: before :meth:`fitted`.
        """
        self._check_fitted()
        return (len(self.numbers) + sum(len(known) for *_, known in self.categories),)

    @property
    def notes(self) -> tuple[str, ...]:
        """Columns that were left out, and why."""
        return tuple(
            f"column {name!r} is {why} in the sources' training splits and is left out"
            for name, why in self.left_out
            if self._source(name) == name
        )

    def fitted(self, stored: Sequence[Tensor]) -> Table:
        """With medians, means, scales and categories of the sources' training splits.

        Columns that are constant or all missing there are left out.

        Args:
            stored: rows [n, columns] of each source.

        Raises:
            DataError: no column is left.
        """
        rows = torch.cat(list(stored)).double().numpy()
        left_out = {
            name: why
            for name, column in zip(self._columns, rows.T, strict=True)
            if (why := _says_nothing(column))
        }
        if len(left_out) == len(self._columns):
            raise DataError(
                "every column of the table is constant or all missing in the sources' training "
                "splits, so there is nothing to predict from; name other sources or columns."
            )
        numeric = [name for name in self.numeric if name not in left_out]
        categorical = [(name, words) for name, words in self.categorical if name not in left_out]
        return replace(
            self,
            numbers=_fitted_numbers(numeric, rows[:, self._places(numeric)]),
            categories=tuple(
                (name, *_fitted_category(words, rows[:, self._places([name])[0]]))
                for name, words in categorical
            ),
            left_out=tuple(left_out.items()),
        )

    def __call__(self, stored: Tensor) -> Tensor:
        """Rows [n, columns] as float32 [n, *shape].

        Raises:
            RuntimeError: before :meth:`fitted`.
        """
        self._check_fitted()
        parts = []
        if self.numbers:
            names, *estimates = zip(*self.numbers, strict=True)
            # In double precision, which seconds since 1970 and account numbers need.
            kept = torch.tensor(estimates, dtype=torch.float64, device=stored.device)
            median, mean, scale = kept
            x = stored[:, self._places(names)].double()
            parts.append(((torch.where(x.isnan(), median, x) - mean) / scale).float())
        vocabularies = dict(self.categorical)
        for name, most_frequent, known in self.categories:
            place = {word: float(code) for code, word in enumerate(vocabularies[name])}
            codes = stored[:, self._places([name])]
            codes = codes.nan_to_num(nan=place[most_frequent])
            parts.append((codes == codes.new_tensor([place[word] for word in known])).float())
        return torch.cat(parts, dim=1)

    def read(self, paths: Sequence[Path], reading: Reading = AS_USUAL) -> tuple[list[str], Tensor]:
        """The rows of tables, called by a column or ``FILE:LINE`` with the header's line as 1.

        The target and the domain need not be there, and columns that are not known are ignored.
        Texts that training has not seen, and columns that are empty, are told.

        Raises:
            DataError: a file that is no table, lacks columns that are used, or has texts where
                there should be numbers.
        """
        names: list[str] = []
        stored = []
        for path in paths:
            file = open_table(path, Writing(*self.writing))
            if reading.name is not None:
                file.check_columns([reading.name])
            rows = self._rows(path, file)
            for told in self._oddities(path, rows):
                reading.news.say(f"Note: {told}")
            stored.append(rows)
            names += names_of_rows(path, file, reading.name)
        return names, torch.cat(stored)

    def _rows(self, path: Path, file: TableFile) -> Tensor:
        unused = {name for name, _ in self.left_out}
        used = [name for name in self._columns if name not in unused]
        of_dates = {name for name, _ in self.dates}
        wanted = dict.fromkeys(self._source(name) for name in used)
        lacking = [name for name in wanted if name not in file.named]
        if lacking:
            raise DataError(
                f"{path} lacks columns that the model was trained on: {listed(lacking)}. "
                f"It has {listed(file.named)}."
            )
        texts = {name for name, _ in self.categorical} | of_dates
        values = file.values(list(wanted), texts, self.missing)
        for name in wanted:
            if name not in texts and not is_numeric(values[name]):
                raise DataError(odd_texts(path, values[name], "leave the fields empty"))
        values = in_calendar(path, values, [each for each in self.dates if each[0] in wanted])
        values = values.reindex(columns=list(self._columns))
        return encoded(path, values, self.numeric, self.categorical)

    def _oddities(self, path: Path, rows: Tensor) -> Iterator[str]:
        """What a model makes little of."""
        for name in [name for name, *_ in self.numbers] + [name for name, *_ in self.categories]:
            (place,) = self._places([name])
            column = rows[:, place]
            if column.isnan().all():
                yield f"column {name!r} of {path} is empty; what is usual in training stands for it"
        vocabularies = dict(self.categorical)
        for name, _, known in self.categories:
            (place,) = self._places([name])
            codes = rows.new_tensor([vocabularies[name].index(word) for word in known])
            column = rows[:, place]
            unseen = int((~torch.isin(column, codes) & ~column.isnan()).sum())
            if unseen:
                yield (
                    f"column {name!r} of {path} has texts that training has not seen in {unseen:,} "
                    f"of {len(rows):,} rows; it says nothing there"
                )

    def _source(self, name: str) -> str:
        """The column of a file that a column comes from."""
        date, separator, _ = name.rpartition(": ")
        return date if separator and date in dict(self.dates) else name

    def adopted(self, other: Preparation, stored: Tensor) -> Tensor:
        """Rows that another table stored, with this table's columns and vocabularies.

        Raises:
            DataError: no table, or one that lacks columns or has numbers where names should be.
        """
        if not isinstance(other, Table):
            return super().adopted(other, stored)
        used = {name for name, *_ in (*self.numbers, *self.categories)}
        vocabularies, others = dict(self.categorical), dict(other.categorical)
        rows = stored.new_full((len(stored), len(self._columns)), math.nan)
        for at, name in enumerate(self._columns):
            if name not in used:
                continue
            if name not in other._columns or (name in vocabularies) != (name in others):
                raise DataError(
                    f"the model takes the column {name!r} as "
                    f"{'names' if name in vocabularies else 'numbers'}; this table "
                    f"{'has it otherwise' if name in other._columns else 'lacks it'}."
                )
            column = stored[:, other._places([name])[0]]
            if name in vocabularies:
                place = {word: float(code) for code, word in enumerate(vocabularies[name])}
                codes = [place.get(word, -1.0) for word in others[name]]
                # The last place is for −1, a name that is in no vocabulary.
                known = column.new_tensor([*codes, -1.0])[column.nan_to_num(nan=-1).long()]
                column = torch.where(column.isnan(), column, known)
            rows[:, at] = column
        return rows

    def options_for_more(self) -> dict[str, Any]:
        """That columns are used as here, whatever they look like there."""
        names = tuple(name for name, *_ in self.categories)
        numbers = dict.fromkeys(self._source(name) for name, *_ in self.numbers)
        order = {form.startswith("%d") for _, form in self.dates if form[:2] in ("%d", "%m")}
        told = {"day_first": order.pop()} if len(order) == 1 else {}
        return {"keep": tuple(numbers), "categorical": names, "dates": "calendar", **told}

    @property
    def _columns(self) -> tuple[str, ...]:
        return (*self.numeric, *(name for name, _ in self.categorical))

    def _places(self, names: Iterable[str]) -> list[int]:
        place = {name: at for at, name in enumerate(self._columns)}
        return [place[name] for name in names]

    def _check_fitted(self) -> None:
        if not (self.numbers or self.categories):
            raise RuntimeError(
                "this table has no means and categories yet; call fitted with the stored rows of "
                "the sources' training splits, and use what it returns."
            )


def encoded(
    path: Path,
    values: pd.DataFrame,
    numeric: Sequence[str],
    categorical: Sequence[tuple[str, Sequence[str]]],
) -> Tensor:
    """Rows as they are stored: numbers, then places in the vocabularies; NaN where missing."""
    for name in numeric:
        check_float32(path, name, values[name])
    columns = [values[name].to_numpy(dtype=np.float64) for name in numeric]
    for name, words in categorical:
        text = values[name]
        codes, texts = text_codes(text)
        places = np.append(places_in(words, pd.Series(map(short, texts), dtype=object)), -1)
        columns.append(np.where(codes < 0, np.nan, places[codes]))
    return torch.from_numpy(np.stack(columns, axis=1))


def in_calendar(path: Path, values: pd.DataFrame, dates: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """With the parts of dates as columns of numbers in the place of the dates.

    Raises:
        DataError: a text that is no date in its column's format.
    """
    for name, form in dates:
        parts = calendar(values[name], form)
        odd = values[name].notna() & np.isnan(parts["hour"])
        if odd.any():
            raise DataError(
                f"{path}: column {name!r} should be dates as {form!r} and has "
                f"{values[name][odd].iloc[0]!r} in {odd.sum():,} rows; write all alike."
            )
        made = pd.DataFrame({f"{name}: {part}": value for part, value in parts.items()})
        values = pd.concat([values.drop(columns=name), made.set_index(values.index)], axis=1)
    return values


def places_in(vocabulary: Sequence[str], names: pd.Series) -> NDArray[np.int64]:
    """Places in the vocabulary, −1 for what is not in it."""
    return np.asarray(pd.Index(vocabulary, dtype=object).get_indexer(names.astype(object)))


def short(text: str) -> str:
    """A whole number without its fraction and what leads it, and other texts as they are.

    >>> short("2019.0"), short("01"), short("1.5"), short("1a")
    ('2019', '1', '1.5', '1a')
    """
    return str(int(text.partition(".")[0])) if WHOLE.fullmatch(text) else text


def is_numeric(column: pd.Series) -> bool:
    """Whether a column holds numbers, not texts."""
    return bool(pd.api.types.is_numeric_dtype(column))


def odd_texts(path: Path, column: pd.Series, remedy: str) -> str:
    """What to say of texts in a column of numbers."""
    present = column.dropna()
    odd = present[pd.to_numeric(present, errors="coerce").isna()]
    shown = listed([repr(text) for text in odd.unique()])
    return (
        f"{path}: column {column.name!r} should be numbers and has {shown} in {len(odd):,} of "
        f"{len(column):,} rows; if they stand for missing values, {remedy}."
    )


def check_float32(path: Path, name: object, numbers: pd.Series) -> None:
    """See that all numbers can be kept in float32.

    Raises:
        DataError: they cannot.
    """
    beyond = numbers.notna() & ~(numbers.abs() <= np.finfo(np.float32).max)
    if beyond.any():
        raise DataError(
            f"{path}: column {name!r} should have finite numbers of magnitude up to 3.4e38 and has "
            f"{numbers[beyond].iloc[0]} in {beyond.sum():,} rows; mend or drop it."
        )


def names_of_rows(path: Path, file: TableFile, column: str | None) -> list[str]:
    """What rows are called: by a column where it has a text, else by their line."""
    by_line = [f"{path}:{line}" for line in file.lines]
    if column is None:
        return by_line
    given = file.values([column], {column}, ())[column]
    return [line if pd.isna(name) else str(name) for name, line in zip(given, by_line, strict=True)]


def _says_nothing(column: NDArray[np.float64]) -> str | None:
    """Why a column is left out, if it is."""
    present = column[~np.isnan(column)]
    if not len(present):
        return "all missing"
    return "constant" if (present == present[0]).all() else None


def _fitted_numbers(
    names: Sequence[str], rows: NDArray[np.float64]
) -> tuple[tuple[str, float, float, float], ...]:
    """Median, and mean and standard deviation once it stands for what is missing."""
    found = []
    for name, column in zip(names, rows.T, strict=True):
        missing = np.isnan(column)
        median = float(np.median(column[~missing]))
        filled = np.where(missing, median, column)
        found.append((name, median, float(filled.mean()), float(filled.std()) or 1.0))
    return tuple(found)


def _fitted_category(
    vocabulary: Sequence[str], codes: NDArray[np.float64]
) -> tuple[str, tuple[str, ...]]:
    """The most frequent text, the first of several, and those that are known."""
    known, counts = np.unique(codes[~np.isnan(codes)].astype(int), return_counts=True)
    return vocabulary[known[counts.argmax()]], tuple(vocabulary[code] for code in known)
