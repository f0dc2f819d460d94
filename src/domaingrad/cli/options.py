"""Options of commands, made of the settings that they set: each is declared there, once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import Annotated, Any, get_args, get_origin

import typer

from domaingrad.bench import READERS, Option, TrainConfig, options_of, without_none

Command = Callable[..., None]

DATA, TRAINING = "Data", "Training"
GROUPS = {
    "Model": "backbone weights frozen_backbone head lp_ft frozen_norms dropout",
    TRAINING: (
        "augment steps epochs batch balance class_weights optimizer learning_rate weight_decay "
        "momentum schedule warm_up clip_norm"
    ),
    "Selection": "metric score_over patience checkpoints",
    "Averages of the weights": "average average_from average_decay average_ratio",
    "Machine": "precision compile workers accelerator plugins",
}
"""Headings of the help, and the settings of a training that stand below each."""


def takes(before: str | None = None, settings: Sequence[str] = ()) -> Callable[[Command], Command]:
    """Give a command the options of readers and of trainings; what was given comes as one dict.

    Args:
        before: the command's own option that they come before, in its help; after all unless told.
        settings: of trainings that it takes; all unless told.
    """

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.name != "settings"]
        # What several readers take is shown once, in the words of the first.
        shown: dict[str, tuple[str, Any, Any, Option]] = {}
        for reader in READERS.values():
            for option in options_of(reader.options):
                shown.setdefault(option[0], option)
        reading = _parameters(shown.values(), dict.fromkeys(shown, DATA))
        every = options_of(TrainConfig)
        headings = {name: title for title, names in GROUPS.items() for name in names.split()}
        chosen = (each for each in every if not settings or each[0] in settings)
        training = _parameters(chosen, headings)
        place = next((at for at, each in enumerate(own) if each.name == before), len(own))
        parameters = [*own[:place], *(p for p, _ in (*reading, *training)), *own[place:]]

        @wraps(command)
        def called(**values: Any) -> None:
            told, given = (
                without_none({p.name: read(values.pop(p.name)) for p, read in each})
                for each in (reading, training)
            )
            command(**values, settings=given | {"data_options": told})

        called.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {p.name: p.annotation for p in parameters}
        return called

    return decorate


def _parameters(
    settings: Iterable[tuple[str, Any, Any, Option]], headings: Mapping[str, str]
) -> list[tuple[inspect.Parameter, Callable[[Any], Any]]]:
    """A parameter for each setting, below its heading, and how its value becomes the setting's."""
    found = []
    for name, kind, default, option in settings:
        several = any(get_origin(each) is tuple for each in (kind, *get_args(kind)))
        flags = (option.flags or f"--{name.replace('_', '-')}").split()
        shown = option.help
        if isinstance(default, str | float) and not isinstance(default, bool):
            shown += f"  [default: {default}]"
        told = typer.Option(*flags, help=shown, rich_help_panel=headings[name])
        plain = list[str] if several else _or_none(kind)
        parameter = inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=[] if several else None,
            annotation=Annotated[plain, told],
        )
        separate = listed if option.commas else _as_given
        found.append((parameter, separate if several else lambda value: value))
    return found


def _or_none(kind: Any) -> Any:
    """For what may be left out: ``None`` says so."""
    return kind if type(None) in get_args(kind) else kind | None


def _as_given(texts: Sequence[str]) -> tuple[str, ...] | None:
    return tuple(texts) or None


def listed(texts: Sequence[str]) -> tuple[str, ...] | None:
    """Values given one by one or with commas."""
    return tuple(name.strip() for text in texts for name in text.split(",") if name.strip()) or None
