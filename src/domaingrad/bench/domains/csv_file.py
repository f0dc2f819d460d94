"""CSV files as tables of numbers and texts, with what is broken in them said."""

from __future__ import annotations

import csv
import io
import zlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import pandas as pd

from domaingrad.bench.disk import read, unpacked
from domaingrad.bench.names import UnknownNameError, look_up

from .data import DataError
from .files import listed


@dataclass(frozen=True)
class CsvFile:
    """A CSV file with a header and rows, all of the header's length."""

    path: Path
    columns: tuple[str, ...]
    """Names in the header, all different but for empty ones."""
    digest: str
    """Hash of the file."""
    content: str = field(repr=False)

    @cached_property
    def named(self) -> tuple[str, ...]:
        """The columns that have a name."""
        return tuple(name for name in self.columns if name)

    def check_columns(self, names: Sequence[str]) -> None:
        """See that the file has columns of these names.

        Raises:
            DataError: it does not; with the nearest name there is.
        """
        try:
            for name in names:
                look_up("column", name, dict.fromkeys(self.named))
        except UnknownNameError as error:
            hint = "".join(
                f" The file seems to be separated by {found!r}; separate it by commas."
                for found in (";", "\t")
                if len(self.columns) == 1 and found in self.columns[0]
            )
            raise DataError(f"{self.path}: {error}{hint}") from error

    def values(
        self, names: Sequence[str], texts: Collection[str], missing: Sequence[str]
    ) -> pd.DataFrame:
        """Columns by name: float64, or text without the space around it; NaN where missing.

        Args:
            names: the columns.
            texts: those that are text even if they look like numbers; others are where not every
                value is a number.
            missing: texts that stand for a missing value, beside the empty one.
        """
        guessed = self._parsed([name for name in names if name not in texts], missing, None)
        # Read as text anew, since pandas takes true for True, and so on.
        as_text = [
            name
            for name in names
            if name not in guessed
            or not pd.api.types.is_numeric_dtype(guessed[name])
            or pd.api.types.is_bool_dtype(guessed[name])
        ]
        parsed = self._parsed(as_text, missing, str)
        values = {}
        for name in names:
            if name not in parsed:
                values[name] = guessed[name].astype(float)
                continue
            text = parsed[name].str.strip()
            text = text.mask(text.isin(["", *missing]))
            numbers = pd.to_numeric(text, errors="coerce")
            plain = name not in texts and bool((numbers.isna() == text.isna()).all())
            values[name] = numbers.astype(float) if plain else text
        return pd.DataFrame(values)

    def _parsed(
        self, names: Sequence[str], missing: Sequence[str], dtype: type | None
    ) -> pd.DataFrame:
        if not names:
            return pd.DataFrame()
        try:
            return pd.read_csv(
                io.StringIO(self.content),
                # Pandas would rename what the header calls the same; only unnamed columns are.
                names=[name or number for number, name in enumerate(self.columns)],
                usecols=list(names),
                header=0,
                index_col=False,
                dtype=dtype,
                keep_default_na=False,
                na_values=["", *missing],
                skipinitialspace=True,
                low_memory=False,
            )
        except pd.errors.ParserError as error:
            raise DataError(f"{self.path} should be a CSV file and is not ({error}).") from error


def open_csv(path: Path) -> CsvFile:
    """A CSV file in UTF-8, packed with gzip or not.

    Raises:
        DataError: the file cannot be read, is no such text, has no rows, columns of the same name
            or rows of another length than the header.
    """
    try:
        content = unpacked(path)
    except (OSError, EOFError, zlib.error) as cause:
        raise DataError(f"{path} cannot be read ({cause}); check the name and the file.") from cause
    try:
        text = content.decode("utf-8-sig")
        columns = _checked_columns(path, text)
    except UnicodeDecodeError as cause:
        raise DataError(
            f"{path} should be a CSV file in UTF-8 and is not ({cause}); save it as one."
        ) from cause
    except csv.Error as cause:
        raise DataError(f"{path} should be a CSV file and is not ({cause}).") from cause
    return CsvFile(path, columns, sha256(read(path, None)).hexdigest(), text)


def _checked_columns(path: Path, text: str) -> tuple[str, ...]:
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    rows = (row for row in reader if row)
    columns = tuple(name.strip() for name in next(rows, ()))
    if not any(columns):
        raise DataError(f"{path} is empty; expected a header and rows.")
    twice = [name for name, count in Counter(columns).items() if name and count > 1]
    if twice:
        raise DataError(f"{path} has more than one column called {listed(twice)}; rename them.")
    row: list[str] | None = None
    for row in rows:
        if len(row) != len(columns):
            raise DataError(
                f"{path}, line {reader.line_num}: expected {len(columns)} fields as in the header, "
                f"found {len(row)}; mend or remove the line."
            )
    if row is None:
        raise DataError(f"{path} has a header and no rows; expected at least one.")
    return columns
