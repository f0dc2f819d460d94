"""Docstrings as the site shows them: doctests and equations as code, names as code."""

from __future__ import annotations

import re
from textwrap import indent
from typing import Any

import griffe

ROLE = re.compile(r":\w+:`~?([^`]+)`")
EQUATION = re.compile(r"[Σ∇·≥←√⟨ᵀ∘]|\|")


def as_markdown(text: str) -> str:
    """Of a docstring: its roles, doctests and equations in Markdown's own marks."""
    paragraphs = re.split(r"\n[ \t]*\n", ROLE.sub(r"`\1`", text.strip("\n")))
    shown, examples = [], []
    for paragraph in paragraphs:
        if paragraph.lstrip().startswith(">>>"):
            examples.append(paragraph)
        elif _is_equation(paragraph):
            shown.append(f"```text\n{paragraph}\n```")
        else:
            shown.append(paragraph)
    if examples:
        shown.append("Examples:\n" + indent("\n\n".join(examples), "    "))
    return "\n\n".join(shown)


def _is_equation(paragraph: str) -> bool:
    """Whether it stands for itself: no sentence, no list, no indented section."""
    return (
        " = " in paragraph
        and EQUATION.search(paragraph) is not None
        and not paragraph.rstrip().endswith((".", ":"))
        and not re.match(r"\s|- |\w+:\n", paragraph)
    )


class Docstrings(griffe.Extension):
    """Hands every docstring through :func:`as_markdown`."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for each object that was read."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
