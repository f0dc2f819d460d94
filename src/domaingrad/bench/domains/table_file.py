"""Files of tables: what separates, how numbers are written and which encoding is found out."""

from __future__ import annotations

import csv
import io
import re
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from domaingrad.bench.disk import is_machines, read, require_no_bomb, unpacked
from domaingrad.bench.names import UnknownNameError, imported_when_used, look_up

from .data import DataError
from .files import listed

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = imported_when_used("pandas")

TEXTS = (".csv", ".tsv", ".txt")
"""Ends of names of tables as text, packed or not."""
BINARIES = {
    ".parquet": ("read_parquet", "pyarrow", "a Parquet file"),
    ".xlsx": ("read_excel", "openpyxl", "an Excel file"),
}
"""Of other tables: the function of pandas, what it needs, what it reads."""
SUFFIXES = (*TEXTS, *BINARIES)
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
LOOKED_AT, ENOUGH = 200, 10**6
"""Rows, and characters, from which the separator is found."""

_MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}


@dataclass(frozen=True)
class Writing:
    r"""How a table is written as text; ``None`` for what is to be found out.

    >>> Writing(separator="tab").separator
    '\t'
    """

    separator: str | None = None
    decimal: str | None = None
    encoding: str | None = None

    def __post_init__(self) -> None:
        """See that they can be; names of separators stand for them."""
        by_name = {name: mark for mark, name in SEPARATORS.items()} | {"\\t": "\t"}
        separator = by_name.get(self.separator or "", self.separator)
        object.__setattr__(self, "separator", separator)
        if separator is not None and len(separator) != 1:
            raise DataError(
                f"separator should be one character or {', '.join(by_name)}; found {separator!r}."
            )
        if self.decimal not in (None, ".", ","):
            raise DataError(f"decimal should be '.' or ','; found {self.decimal!r}.")


@dataclass(frozen=True)
class TableFile:
    """A table with names of columns and rows, all of the same length."""

    path: Path
    columns: tuple[str, ...]
    """Names, all different but for empty ones."""
    digest: str
    """Hash of the file."""
    lines: Sequence[int]
    """Of each row, the line of the file that it begins in."""
    writing: Writing
    """With nothing left to be found out."""
    content: str | pd.DataFrame = field(repr=False)

    @cached_property
    def named(self) -> tuple[str, ...]:
        """The columns that have a name."""
        return tuple(name for name in self.columns if name)

    def notes(self, told: Writing) -> tuple[str, ...]:
        """What was found out and is not as usual, in one line; nothing of what was told."""
        separator, decimal, encoding = (
            None if given else found
            for given, found in zip(vars(told).values(), vars(self.writing).values(), strict=True)
        )
        found = []
        if separator not in (None, ","):
            found.append(f"separated by {SEPARATORS.get(separator, separator)} (separator)")
        if decimal == ",":
            found.append("with decimal commas (decimal)")
        if encoding not in (None, "utf-8", "utf-8-sig"):
            found.append(f"in the encoding {encoding} (encoding)")
        if not found:
            return ()
        return (f"{self.path.name} is read {', '.join(found)}; the setting in brackets overrules",)

    def check_columns(self, names: Sequence[str]) -> None:
        """See that the table has columns of these names.

        Raises:
            DataError: it does not; with the nearest name there is.
        """
        try:
            for name in names:
                look_up("column", name, dict.fromkeys(self.named))
        except UnknownNameError as error:
            raise DataError(f"{self.path}: {error}") from error

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
        absent = {"", *missing}

        def stripped(each: str) -> str | None:
            return None if each.strip() in absent else each.strip()

        guessed = self._parsed([name for name in names if name not in texts], missing, None)
        # Read as text anew, since pandas takes true for True, and so on.
        kinds = guessed.dtypes.map(lambda kind: kind.kind if hasattr(kind, "kind") else "O")
        parsed = self._parsed([n for n in names if kinds.get(n, "b") in "bmM"], missing, str)
        values = {}
        for name in names:
            if kinds.get(name, "") in tuple("iuf"):
                values[name] = guessed[name].astype(float)
                continue
            if name not in parsed:
                parsed[name] = _as_text(guessed[name])
            text = each_text(parsed[name], stripped)
            if name in texts:
                values[name] = text
                continue
            text = self.in_plain(text)
            once = pd.Series(text.dropna().unique(), dtype=object)
            plain = bool(pd.to_numeric(once, errors="coerce").notna().all())
            values[name] = pd.to_numeric(text).astype(float) if plain else text
        return pd.DataFrame(values)

    def in_plain(self, text: pd.Series) -> pd.Series:
        """Numbers as Python writes them: without marks between thousands, with a decimal point."""
        decimal = self.writing.decimal or "."
        mark = "." if decimal == "," else ","
        grouped = rf"\d{{1,3}}(?:\{mark}\d{{3}})+(?:\{decimal}\d*)?"
        plain = rf"\d*\{decimal}?\d+(?:[eE][+-]?\d+)?"
        number = re.compile(rf"[+-]?(?:{grouped}|{plain})")

        def in_plain(each: str) -> str:
            written = number.fullmatch(each) if {mark, decimal} - {"."} & {*each} else None
            return each.replace(mark, "").replace(decimal, ".") if written else each

        return each_text(text, in_plain)

    def _parsed(
        self, names: Sequence[str], missing: Sequence[str], dtype: type | None
    ) -> pd.DataFrame:
        if not names:
            return pd.DataFrame()
        if isinstance(self.content, pd.DataFrame):
            frame = self.content[list(names)]
            if dtype is not None:
                return frame.apply(_as_text)
            marks = pd.to_numeric(pd.Series(missing, dtype=object), errors="coerce").dropna()
            return frame.mask(frame.isin(marks.tolist()))
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
                sep=self.writing.separator,
                decimal=self.writing.decimal or ".",
            )
        except pd.errors.ParserError as error:
            raise DataError(
                f"{self.path} should be a table as text and is not ({error})."
            ) from error


def open_table(path: Path, told: Writing | None = None) -> TableFile:
    """A table as text, packed with gzip or not, or of Parquet or Excel.

    As text it is in UTF-8 or, where it has their mark, in UTF-16, else in Windows' western encoding
    (cp1252), of which Latin-1 is a part. The separator is that of comma, semicolon, tab and bar
    that makes the most columns, as many in each row as in the header. Numbers have decimal commas
    where another separator stands and texts are numbers with a comma.

    Raises:
        DataError: the file cannot be read, is no such table, has no rows, columns of the same name
            or rows of another length than the header.
    """
    told = told or Writing()
    try:
        content = unpacked(path)
    except (OSError, EOFError, zlib.error) as cause:
        raise DataError(f"{path} cannot be read ({cause}); check the name and the file.") from cause
    digest = sha256(read(path, None)).hexdigest()
    if path.suffix.lower() in BINARIES:
        return _binary(path, content, digest)
    encoding = told.encoding or _encoding(content)
    try:
        text = content.decode(encoding)
        if "\0" in text:
            raise DataError(f"{path} should be a table as text and holds bytes of no text.")
        separator = told.separator or _separator(text)
        columns, lines = _checked(path, text, separator)
    except (UnicodeDecodeError, LookupError) as cause:
        raise DataError(
            f"{path} should be text in the encoding {encoding} and is not ({cause}); name another "
            f"encoding."
        ) from cause
    except csv.Error as cause:
        raise DataError(f"{path} should be a table as text and is not ({cause}).") from cause
    decimal = told.decimal or _decimal(text, separator)
    return TableFile(path, columns, digest, lines, Writing(separator, decimal, encoding), text)


def text_codes(column: pd.Series) -> tuple[NDArray[np.int64], NDArray[np.object_]]:
    """Of each row the place of its text among the different ones, −1 where missing; and these."""
    codes, once = pd.factorize(column)
    return np.asarray(codes), np.asarray(once, dtype=object)


def each_text(column: pd.Series, change: Callable[[str], str | None]) -> pd.Series:
    """A column with its texts changed, each different one once."""
    codes, once = text_codes(column)
    changed = np.array([*map(change, once), None], dtype=object)
    return pd.Series(changed[codes], index=column.index, name=column.name, dtype=object)


def _binary(path: Path, content: bytes, digest: str) -> TableFile:
    function, library, what = BINARIES[path.suffix.lower()]
    try:
        if content.startswith(b"PK"):  # as Excel's
            require_no_bomb(io.BytesIO(content), path)
        frame: pd.DataFrame = getattr(pd, function)(io.BytesIO(content))
    except ImportError as error:
        raise DataError(
            f"{path}: reading {what} takes the package {library}, which is not installed; "
            f"pip install 'domaingrad[tables]', or save it as CSV."
        ) from error
    except Exception as error:
        if is_machines(error):
            raise
        raise DataError(f"{path} should be {what} and cannot be read ({error}).") from error
    if any(frame.index.names):
        frame = frame.reset_index()
    frame = frame.set_axis([_name(each) for each in frame.columns], axis=1)
    columns = _different(path, tuple(frame.columns))
    if not len(frame):
        raise DataError(f"{path} has a header and no rows; expected at least one.")
    first = 2 if function == "read_excel" else 1
    return TableFile(path, columns, digest, range(first, first + len(frame)), Writing(), frame)


def _name(column: object) -> str:
    """A column's; pandas calls those without one so."""
    name = str(column).strip()
    return "" if re.fullmatch(r"Unnamed: \d+", name) else name


def _as_text(column: pd.Series) -> pd.Series:
    """As it would be in a CSV file."""
    if pd.api.types.is_datetime64_any_dtype(column):
        return column.map(lambda each: each.isoformat(), na_action="ignore").astype(object)
    return each_text(column, str)


def _encoding(content: bytes) -> str:
    for mark, name in _MARKS.items():
        if content.startswith(mark):
            return name
    for odd, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        if content[odd:400:2] and content[odd:400:2].count(0) > len(content[odd:400:2]) / 2:
            return name
    for name in ("utf-8", "cp1252"):
        try:
            content.decode(name)
        except UnicodeDecodeError:
            continue
        return name
    return "latin-1"


def _rows(text: str, separator: str) -> Any:
    return csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)


def _first(text: str, separator: str) -> Iterator[list[str]]:
    """The first rows, without looking at all of a large file."""
    part = text if len(text) < ENOUGH else text[:ENOUGH].rpartition("\n")[0]
    return islice(_rows(part, separator), LOOKED_AT)


def _separator(text: str) -> str:
    """That which makes the most columns, of those that make the same number in each row."""
    found = {}
    for mark in SEPARATORS:
        try:
            lengths = [len(row) for row in _first(text, mark) if row]
        except csv.Error:
            continue
        if lengths:
            found[mark] = (lengths[0] > 1 and len({*lengths}) == 1, lengths[0])
    return max(found, key=lambda mark: found[mark], default=",")


def _decimal(text: str, separator: str) -> str:
    if separator == ",":
        return "."
    fields = [each.strip() for row in _first(text, separator) for each in row]
    commas = sum(
        re.fullmatch(r"[+-]?(\d{1,3}(\.\d{3})+|\d*),\d+", each) is not None for each in fields
    )
    points = sum(re.fullmatch(r"[+-]?\d*\.\d+", each) is not None for each in fields)
    return "," if commas > points else "."


def _checked(path: Path, text: str, separator: str) -> tuple[tuple[str, ...], list[int]]:
    """The columns, and where each row begins."""
    reader = _rows(text, separator)
    columns: tuple[str, ...] = ()
    for row in reader:
        if row:
            columns = tuple(name.strip() for name in row)
            break
    if not any(columns):
        raise DataError(f"{path} is empty; expected a header and rows.")
    _different(path, columns)
    width, before, lines = len(columns), reader.line_num, []
    for row in reader:
        if row:
            lines.append(before + 1)
            if len(row) != width:
                raise DataError(
                    f"{path}, line {reader.line_num}: expected {width} fields as in the header, "
                    f"found {len(row)}; mend or remove the line."
                )
        before = reader.line_num
    if not lines:
        raise DataError(f"{path} has a header and no rows; expected at least one.")
    return columns, lines


def _different(path: Path, columns: tuple[str, ...]) -> tuple[str, ...]:
    twice = [name for name, count in Counter(columns).items() if name and count > 1]
    if twice:
        raise DataError(f"{path} has more than one column called {listed(twice)}; rename them.")
    return columns
