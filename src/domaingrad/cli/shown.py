"""What a command says, with names in it as they are: rich takes no markup from them."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from domaingrad.bench import json_of, plain


def say(console: Console, text: object, label: str = "", style: str = "") -> None:
    """Print a line, perhaps after a label in a style, for a terminal to break where it has to.

    Args:
        console: where.
        text: the line.
        label: before it.
        style: of the label.
    """
    console.print(Text.assemble((label, style), " " * bool(label), plain(text)), soft_wrap=True)


def fail(console: Console, text: object) -> None:
    """Print what is wrong."""
    say(console, text, "Error:", "bold red")


def echo_json(document: Any) -> None:
    """Print JSON, in whatever encoding the terminal or file has."""
    unknown = r"[\ud800-\udfff]" if "utf" in (sys.stdout.encoding or "").lower() else r"[^\0-\x7f]"
    typer.echo(re.sub(unknown, lambda letter: json.dumps(letter[0])[1:-1], json_of(document)))
