"""How rows of a table become what a model sees."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from .csv_file import open_csv
from .data import DataError, Preparation
from .files import listed

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
                (name, *_fitted_category(words, rows[:, self._places([name])]))
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
            median, mean, scale = torch.tensor(estimates, device=stored.device)
            x = stored[:, self._places(names)].float()
            parts.append((torch.where(x.isnan(), median, x) - mean) / scale)
        vocabularies = dict(self.categorical)
        for name, most_frequent, known in self.categories:
            place = {word: float(code) for code, word in enumerate(vocabularies[name])}
            codes = stored[:, self._places([name])].float()
            codes = codes.nan_to_num(nan=place[most_frequent])
            parts.append((codes == codes.new_tensor([place[word] for word in known])).float())
        return torch.cat(parts, dim=1)

    def read(self, paths: Sequence[Path]) -> tuple[list[str], Tensor]:
        """The rows of CSV files, called ``FILE:ROW`` with the first row after the header as 1.

        The target and the domain need not be there, and columns that are not known are ignored.

        Raises:
            DataError: a file that is no CSV, lacks columns that are used, or has texts where there
                should be numbers.
        """
        unused = {name for name, _ in self.left_out}
        names: list[str] = []
        stored = []
        for path in paths:
            file = open_csv(path)
            wanted = [name for name in self._columns if name not in unused]
            lacking = [name for name in wanted if name not in file.named]
            if lacking:
                raise DataError(
                    f"{path} lacks columns that the model was trained on: {listed(lacking)}. "
                    f"It has {listed(file.named)}."
                )
            values = file.values(wanted, {name for name, _ in self.categorical}, self.missing)
            for name in self.numeric:
                if name in values and not is_numeric(values[name]):
                    raise DataError(odd_texts(path, values[name], "leave the fields empty"))
            values = values.reindex(columns=list(self._columns))
            stored.append(encoded(path, values, self.numeric, self.categorical))
            names += [f"{path}:{row}" for row in range(1, len(values) + 1)]
        return names, torch.cat(stored)

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
    columns = [values[name].to_numpy(dtype=np.float32) for name in numeric]
    for name, words in categorical:
        text = values[name]
        places = places_in(words, text.map(short, na_action="ignore")).astype(np.float32)
        columns.append(np.where(text.isna(), np.float32(np.nan), places))
    return torch.from_numpy(np.stack(columns, axis=1))


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


def _says_nothing(column: NDArray[np.float64]) -> str | None:
    """Why a column is left out, if it is."""
    present = column[~np.isnan(column)]
    if not len(present):
        return "all missing"
    return "constant" if (present == present[0]).all() else None


def _fitted_numbers(
    names: Sequence[str], rows: NDArray[np.float64]
) -> tuple[tuple[str, float, float, float], ...]:
    if not names:
        return ()
    from sklearn.impute import SimpleImputer  # noqa: PLC0415 - takes seconds to import
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

    imputer = SimpleImputer(strategy="median")
    scaler = StandardScaler().fit(imputer.fit_transform(rows))
    estimates = (imputer.statistics_, scaler.mean_, scaler.scale_)
    return tuple(zip(names, *(estimate.tolist() for estimate in estimates), strict=True))


def _fitted_category(
    vocabulary: Sequence[str], rows: NDArray[np.float64]
) -> tuple[str, tuple[str, ...]]:
    """The most frequent text, the first of several, and those that are known."""
    from sklearn.impute import SimpleImputer  # noqa: PLC0415 - takes seconds to import
    from sklearn.preprocessing import OneHotEncoder  # noqa: PLC0415

    imputer = SimpleImputer(strategy="most_frequent")
    encoder = OneHotEncoder(handle_unknown="ignore").fit(imputer.fit_transform(rows))
    return (
        vocabulary[int(imputer.statistics_[0])],
        tuple(vocabulary[int(code)] for code in encoder.categories_[0]),
    )
