"""The command `domaingrad`, each command imported when it is given."""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from domaingrad import __version__

COMMANDS = {
    "compare": ("compare", "compare"),
    "train": ("train", "train"),
    "embed": ("embed", "embed"),
    "evaluate": ("evaluate", "evaluate"),
    "estimate": ("estimate", "estimate"),
    "predict": ("predict", "predict"),
    "export": ("export", "export"),
    "inspect": ("inspect", "inspect"),
    "sweep": ("sweep", "sweep"),
    "report": ("report", "report"),
    "cache": ("cache", "cache"),
    "prepare-faces": ("faces", "prepare"),
    "fas-synthetic": ("faces", "synthesise"),
}
"""By name: its module and function."""
GROUPS = {
    "ablate": "Find out what part of a method matters.",
    "list": "Show the names of data sets and methods.",
}
"""Commands with commands of their own, and what they are for."""
MODULES = {"ablate": "ablate", "list": "listing"}


def app_with(wanted: Collection[str]) -> typer.Typer:
    """The command line, of which those commands can be carried out, and all be listed."""
    app = typer.Typer(
        name="domaingrad",
        help="Train on several domains so that the model holds on one it has never seen.\n\n"
        "Start with `domaingrad compare`, which needs no data and takes two to four minutes.",
        no_args_is_help=True,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name, (module, function) in COMMANDS.items():
        found = getattr(_module(module), function) if name in wanted else _named(module, function)
        app.command(name=name)(found)
    for name, text in GROUPS.items():
        group = _module(MODULES[name]).app if name in wanted else typer.Typer()
        app.add_typer(group, name=name, help=text)
    app.callback()(_options)
    return app


def __getattr__(name: str) -> Any:
    """``app``, with every command."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()["app"] = app_with({*COMMANDS, *GROUPS})
    return globals()["app"]


def _module(name: str) -> Any:
    return import_module(f".{name}", __package__)


def _named(module: str, function: str) -> Callable[[], None]:
    """A command that does nothing, with the docstring that its source has."""
    tree = ast.parse(Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8"))
    [found] = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == function]

    def command() -> None:
        raise NotImplementedError(f"{function} was listed, not loaded.")

    command.__doc__ = ast.get_docstring(found)
    return command


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"domaingrad {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""
