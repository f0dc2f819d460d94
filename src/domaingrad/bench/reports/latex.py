"""A summary as LaTeX, by pandas: a table a data set and selection method, for booktabs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from domaingrad.bench.names import imported_when_used
from domaingrad.bench.protocol import SELECTIONS

from .summary import DataSummary, Summary
from .tables import columns, how, row_texts

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = imported_when_used("pandas")

SPECIAL = {
    "\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "°": r"\textdegree{}", "²": r"\textsuperscript{2}", "–": "--",
    "−": "$-$", "∞": r"$\infty$", "×": r"$\times$",
}  # fmt: skip


def latex(summary: Summary) -> str:
    """All tables, to be read in by LaTeX's input; they need the package ``booktabs``."""
    return "\n".join(
        _table(summary, data, selection) for data in summary.data for selection in data.tables
    )


def _table(summary: Summary, data: DataSummary, selection: str) -> str:
    draws = summary.plan.request.draws
    rows = [row_texts(data, row, draws) for row in data.tables[selection]]
    heads = [_escaped(head.removeprefix("held out: ")) for head in columns(data)]
    frame = pd.DataFrame([[_escaped(text) for text in row] for row in rows], columns=heads)
    caption = f"{data.data.name}, {SELECTIONS[selection].title}: {how(summary, data)}."
    text = frame.style.hide(axis="index").to_latex(
        hrules=True,
        column_format="l" + "r" * (len(heads) - 1),
        caption=_escaped(caption),
        position_float="centering",
    )
    return str(text)


def _escaped(text: str) -> str:
    r"""As LaTeX prints it.

    >>> print(_escaped("50%_a"))
    50\%\_a
    """
    return "".join(SPECIAL.get(letter, letter) for letter in text)
