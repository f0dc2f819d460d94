"""A summary as LaTeX, by pandas: a table a data set and selection method, for booktabs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from domaingrad.bench.disk import MARK
from domaingrad.bench.escaping import latex as escaped
from domaingrad.bench.names import imported_when_used
from domaingrad.bench.protocol import SELECTIONS

from .summary import DataSummary, Summary
from .tables import columns, how, row_texts

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = imported_when_used("pandas")


def latex(summary: Summary) -> str:
    """All tables, to be read in by LaTeX's input; they need the package ``booktabs``."""
    return f"% {MARK}\n" + "\n".join(
        _table(summary, data, selection) for data in summary.data for selection in data.tables
    )


def _table(summary: Summary, data: DataSummary, selection: str) -> str:
    draws = summary.plan.request.draws
    rows = [row_texts(data, row, draws) for row in data.tables[selection]]
    heads = [escaped(head.removeprefix("held out: ")) for head in columns(data)]
    frame = pd.DataFrame([[escaped(text) for text in row] for row in rows], columns=heads)
    caption = f"{data.data.name}, {SELECTIONS[selection].title}: {how(summary, data)}."
    text = frame.style.hide(axis="index").to_latex(
        hrules=True,
        column_format="l" + "r" * (len(heads) - 1),
        caption=escaped(caption),
        position_float="centering",
    )
    return str(text)
