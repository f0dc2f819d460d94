r"""Names as they are, wherever they are shown: one function for each kind of place.

Names of domains, classes and files are data, and anybody's. Shown, they are one line, which acts on
nothing: what no reader would see or what a place would take for a command stands as an escape.
"""

from __future__ import annotations

import re
import unicodedata

from rich.text import Text

DIRECTIONS = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that turn the order in which others are shown."""
ON_PLOT = 60
"""Letters of a name for which a plot has room."""
_LATEX = {
    "\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "°": r"\textdegree{}", "²": r"\textsuperscript{2}", "–": "--",
    "−": "$-$", "∞": r"$\infty$", "×": r"$\times$", "<": r"\textless{}", ">": r"\textgreater{}",
    '"': r"\textquotedbl{}", "`": r"\textasciigrave{}",
}  # fmt: skip
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|#~])")
_FORMULA = re.compile(r"[=@\t\r]|[+-](?!\d+(\.\d+)?%?$)")


def plain(text: object) -> str:
    r"""One line without control characters, without letters that turn others' order.

    >>> plain("a\x1b[31mb\nc")
    'a\\x1b[31mb\\nc'
    """
    return "".join(map(_visible, str(text)))


def _visible(letter: str) -> str:
    hidden = unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or letter in DIRECTIONS
    return letter.encode("unicode_escape").decode() if hidden else letter


def terminal(text: object, style: str = "") -> Text:
    """For rich, which takes no markup from it.

    >>> str(terminal("[/A] :smile:"))
    '[/A] :smile:'
    """
    return Text(plain(text), style)


def csv_cell(value: object) -> object:
    """For a spreadsheet: a text that it would take for a formula begins with an apostrophe.

    >>> csv_cell("=1+1|cmd"), csv_cell("-90%"), csv_cell(-1.5)
    ("'=1+1|cmd", '-90%', -1.5)
    """
    if not isinstance(value, str):
        return value
    return ("'" if _FORMULA.match(value.lstrip(" ")) else "") + plain(value)


def latex(text: object) -> str:
    r"""For LaTeX.

    >>> print(latex("50%_a"))
    50\%\_a
    """
    return "".join(_LATEX.get(letter, letter) for letter in plain(text))


def markdown(text: object) -> str:
    r"""For a line or a cell of a table in Markdown.

    >>> print(markdown("a|b_[c](d)"))
    a\|b\_\[c\](d)
    """
    return _MARKDOWN.sub(r"\\\1", plain(text))


def on_plot(text: object) -> str:
    """For a plot, which has room for so many letters.

    >>> on_plot("a" * 100) == "a" * 59 + "…"
    True
    """
    shown = plain(text)
    return shown if len(shown) <= ON_PLOT else shown[: ON_PLOT - 1] + "…"
