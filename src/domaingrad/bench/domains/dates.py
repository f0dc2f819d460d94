"""Columns of dates and times, and the numbers of the calendar that stand for them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from domaingrad.bench.names import imported_when_used

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = imported_when_used("pandas")

ISO = "ISO8601"
_DAYS = {
    True: ("%d/%m/%Y", "%d.%m.%Y", "%d-%m-%Y", "%d/%m/%y", "%d.%m.%y", "%d-%m-%y"),
    False: ("%m/%d/%Y", "%m.%d.%Y", "%m-%d-%Y", "%m/%d/%y", "%m.%d.%y", "%m-%d-%y"),
    None: ("%Y/%m/%d", "%Y.%m.%d", "%d %b %Y", "%d-%b-%Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y",
           "%d%b%Y", "%d-%b-%y"),
}  # fmt: skip
_TIMES = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p", "T%H:%M:%S")
_ALONE = ("%H:%M", "%H:%M:%S", "%H.%M.%S")
_CLOCK = re.compile(r"\d{1,2}([:.])\d\d(?:\1\d\d)?")
FIRST = 40
"""Different texts by which most formats are ruled out."""
PARTS = ("year", "month", "weekday", "hour")
"""Plain numbers; beside them sine and cosine of the place in the year, week and day."""
CYCLES = ("year", "week", "day")


def format_of(text: pd.Series, day_first: bool | None = None) -> tuple[str, bool] | None:
    """In which format all texts of a column are dates or times, and whether another one fits, too.

    Where the first two numbers may be day and month or month and day, that counts in which the
    rows are sorted the better, then that which makes the shorter time of them.

    Args:
        text: the column; NaN where missing.
        day_first: which of the two, where it is known.

    Returns:
        A format for :func:`parsed`, and whether days and months may be the other way round;
        ``None`` if these are no dates.

    >>> format_of(pd.Series(["3.2.2020 10:00", "14.2.2020 11:00"]))
    ('%d.%m.%Y %H:%M', False)
    """
    present = text.dropna()
    once = pd.Series(present.unique())
    if not len(once) or not once.head(FIRST).map(_may_be).all():
        return None
    clock = once.head(FIRST).map(lambda each: _CLOCK.fullmatch(each) is not None).all()
    formats = _ALONE if clock else _formats(day_first)
    first = once.head(FIRST).tolist()
    found = [form for form in formats if all(_may_fit(each, form) for each in first)]
    found = [each for each in found if _fits(once, each)]
    if not found:
        return None
    both = len(found) > 1 and {found[0][:2], found[1][:2]} == {"%d", "%m"}
    return min(found[: 1 + both], key=lambda form: _disorder(present, form)), both


def parsed(text: pd.Series, form: str) -> pd.Series:
    """Points in time, NaT where missing or none."""
    return pd.to_datetime(text, format=form, errors="coerce", utc=True)


def calendar(text: pd.Series, form: str) -> dict[str, NDArray[np.float64]]:
    """Numbers of a calendar by name, NaN where missing: those that such texts have."""
    when = parsed(text, form).dt
    missing = when.year.isna().to_numpy()
    hour = (when.hour + when.minute / 60 + when.second / 3600).to_numpy(float)
    values = {}
    turns = {"day": hour / 24}
    if form not in _ALONE:
        weekday, of_year = (each.to_numpy(float) for each in (when.day_of_week, when.day_of_year))
        values = {"year": when.year, "month": when.month, "weekday": weekday}
        turns |= {"week": (weekday + hour / 24) / 7, "year": (of_year - 1 + hour / 24) / 365.25}
    values["hour"] = hour
    for name in CYCLES:
        if name in turns:
            angle = 2 * math.pi * turns[name]
            values |= {f"sine of {name}": np.sin(angle), f"cosine of {name}": np.cos(angle)}
    made = {name: np.array(value, dtype=float) for name, value in values.items()}
    for value in made.values():
        value[missing] = np.nan
    return made


def has_times(text: pd.Series, form: str) -> bool:
    """Whether any of them is not midnight."""
    when = parsed(text, form).dropna()
    return bool((when != when.dt.normalize()).any())


def _may_be(text: str) -> bool:
    return len(text) >= 4 and re.match(r"[\w]+[-/.: ,]|\d{1,2}[A-Za-z]{3}\d", text) is not None


def _formats(day_first: bool | None) -> Iterator[str]:
    yield ISO
    for order in (True, False, None) if day_first is None else (day_first, None):
        for time in _TIMES:
            for day in _DAYS[order]:
                yield day + time


def _may_fit(text: str, form: str) -> bool:
    """Quickly, for most formats are ruled out by a few texts."""
    try:
        return form == ISO or bool(datetime.strptime(text, form))
    except ValueError:
        return False


def _fits(texts: pd.Series, form: str) -> bool:
    try:
        return bool(pd.to_datetime(texts, format=form, errors="coerce", utc=True).notna().all())
    except (ValueError, OverflowError):
        return False


def _disorder(texts: pd.Series, form: str) -> tuple[float, pd.Timedelta]:
    """The share of rows that come before the one before, and the time from first to last."""
    when = parsed(texts, form)
    return float((when.diff().dropna() < pd.Timedelta(0)).mean()), when.max() - when.min()
