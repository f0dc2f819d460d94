"""Which columns of a table say something of a sample, and which only name or count it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from domaingrad.bench.names import imported_when_used

from .dates import CYCLES, PARTS, format_of

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = imported_when_used("pandas")

FEW = 20
"""So many different texts are never too many; so many rows are too few to see that they count."""
MOST_TEXTS = 200
"""More different texts are too many; fewer where they are more than a fifth of the rows."""
GAPS = 1.2
"""How much further than the number of rows their numbers may go, where some rows are gone."""
IDENTIFIES = re.compile(
    r"(?:^|[\W_])(?:id|ids|no|nr|idx|index|number|uuid|guid|key|serial|row|rowid)$|[a-z]I[dD]$",
    re.IGNORECASE,
)
"""Names of columns that identify; of whole numbers, these alone are taken to."""
_CAMEL = re.compile(r"[a-z](?:Id|ID|No|Nr)$")


@dataclass(frozen=True)
class Features:
    """What is made of the columns beside the target, the domain and the group."""

    used: tuple[str, ...]
    dates: Mapping[str, str]
    """Of those used, the format of each that holds dates."""
    left_out: Mapping[str, str]
    """The others, and why."""
    notes: tuple[str, ...]


def features_of(
    values: pd.DataFrame,
    of_domain: pd.Series,
    *,
    categorical: Collection[str] = (),
    keep: Collection[str] = (),
    drop_dates: bool = False,
    day_first: bool | None = None,
) -> Features:
    """Find dates, and leave out what counts or identifies rows, or has too many texts.

    Args:
        values: columns of numbers and texts, of all rows.
        of_domain: the domain of each row.
        categorical: columns that are names, whatever they look like.
        keep: columns that are used, whatever they look like.
        drop_dates: whether dates are left out.
        day_first: whether in 1/2/2020 the day comes first; found out where ``None``.
    """
    texts = [n for n in values if n not in categorical and not _numeric(values[n])]
    found = {name: fits for name in texts if (fits := format_of(values[name], day_first))}
    left_out: dict[str, str] = {}
    notes = []
    for name in values:
        if name in found and drop_dates:
            left_out[name] = "holds dates"
        elif name not in {*categorical, *keep, *found} and (
            why := _unusable(name, values[name], of_domain)
        ):
            left_out[name] = why
    dates = {}
    for name, (form, both) in found.items():
        if name in left_out:
            continue
        dates[name] = form
        either = "; day-first or month-first tells otherwise" if both else ""
        notes.append(
            f"column {name!r} holds dates ({_in_words(form)}{either}) and becomes "
            f"{', '.join(PARTS)} and the cycles of {', '.join(CYCLES)}; dates=drop leaves it out"
        )
    notes += [
        f"column {name!r} {why} and is left out; keep uses it" for name, why in left_out.items()
    ]
    used = tuple(name for name in values if name not in left_out)
    return Features(used, dates, left_out, tuple(notes))


def _numeric(column: pd.Series) -> bool:
    return bool(pd.api.types.is_numeric_dtype(column))


def _in_words(form: str) -> str:
    """A format as one would write it.

    >>> _in_words("%d/%m/%Y %H:%M")
    'day/month/year 24:00'
    """
    for mark, word in {"%d": "day", "%m": "month", "%b": "month", "%B": "month", "%Y": "year",
                       "%y": "year", "%H:%M:%S.%f": "24:00:00", "%H:%M:%S": "24:00:00",
                       "%H.%M.%S": "24.00.00", "%H:%M": "24:00", "%I:%M:%S %p": "12:00:00 am",
                       "%I:%M %p": "12:00 am"}.items():  # fmt: skip
        form = form.replace(mark, word)
    return form


def _unusable(name: str, column: pd.Series, of_domain: pd.Series) -> str | None:
    """Why a column says nothing of what a new row would be, if it looks so."""
    rows, different = len(column), int(column.nunique())
    if not _numeric(column):
        most = max(FEW, min(rows // 5, MOST_TEXTS))
        return f"has {different:,} different texts in {rows:,} rows" if different > most else None
    if rows < FEW or different < FEW or not (column.dropna() % 1 == 0).all():
        return None
    if any(map(all, _counted(column, of_domain))):
        return "counts the rows"
    named = IDENTIFIES.search(name) or _CAMEL.search(name)
    return "looks like an identifier" if named and different > rows / 10 else None


def _counted(column: pd.Series, of_domain: pd.Series) -> Iterator[list[bool]]:
    """Whether all rows are numbered through, and those of each domain."""
    yield [_numbers_rows(column)]
    yield [_numbers_rows(own) for _, own in column.groupby(of_domain)]


def _numbers_rows(column: pd.Series) -> bool:
    """Whether these are the numbers of the rows, from 0 or 1, perhaps in another order.

    Where they go up from row to row, some may be missing.
    """
    if column.isna().any():
        return False
    numbers, rows = column.to_numpy(), len(column)
    if rows < 2 or not 0 <= numbers.min() <= 1 + (GAPS - 1) * rows:
        return False
    if numbers.min() <= 1 and numbers.max() - numbers.min() == rows - 1:
        return len(np.unique(numbers)) == rows
    return bool((np.diff(numbers) > 0).all() and numbers.max() <= GAPS * rows + 1)
