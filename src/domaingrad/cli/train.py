"""`domaingrad train`: one model on anyone's data, one domain held out or none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from domaingrad.bench import (
    LOGGERS,
    READERS,
    REFERENCES,
    DataError,
    Result,
    config_of,
    in_words,
    listed_methods,
    name_of,
    of_model,
    print_table,
    processes_of,
    terminal,
    without_none,
)
from domaingrad.bench import train as run_training

from . import options
from .errors import bad_input
from .processes import ended_together, is_first, is_first_on_node
from .shown import echo_json, say
from .training_view import TrainingView


@options.takes(before="devices")
def train(
    data: Annotated[
        str | None,
        typer.Option(
            help="KIND:PATH, a path (a folder of images, a .csv, a .json manifest) or the name of "
            f"a built-in data set. Kinds: {', '.join(READERS)}."
        ),
    ] = None,
    hold_out: Annotated[
        str | None,
        typer.Option(
            help="The domain that training never sees; `none` trains on all, and estimates the "
            "score on a new domain by holding out each in turn first."
        ),
    ] = None,
    method: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(listed_methods())}.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help=f"A reference of scikit-learn ({', '.join(REFERENCES)}), or a backbone as mlp."
        ),
    ] = None,
    set_: Annotated[
        list[str], typer.Option("--set", help="A hyper-parameter of the method, as tau=0.8.")
    ] = [],  # noqa: B006 - typer reads it
    config: Annotated[
        Path | None,
        typer.Option(
            help="Settings of another run (its config.yaml); options given here go before."
        ),
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option(
            help="Processes that train together on this node, one a device.  [default: 1]"
        ),
    ] = None,
    nodes: Annotated[
        int | None, typer.Option(help="Nodes on which this command is given.  [default: 1]")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="All randomness derives from it and from names.")
    ] = None,
    trial: Annotated[
        int | None, typer.Option(help="Another number, other splits and initialisation.")
    ] = None,
    loggers: Annotated[
        list[str], typer.Option(help=f"Loggers beside the records: {', '.join(LOGGERS)}.")
    ] = [],  # noqa: B006
    out: Annotated[
        Path | None, typer.Option(help="Directory of the run.  [default: runs/NAME by content]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    *,
    settings: Mapping[str, Any],
) -> None:
    """Train one model so that it holds on a domain that it has never seen.

    The domain held out is never trained on and selects nothing; its score is told once, at the end.
    The model that counts is the one with the best validation on the source domains. `--out` gets
    the settings, records, the state to go on from and the model; the same command goes on after a
    kill, to the same numbers.

    - `domaingrad train --data PACS/ --hold-out sketch --method and-mask`

    - `domaingrad train --data patients.csv --target disease --domain hospital --hold-out none`

    - `domaingrad train --data patients.csv --target ill --domain hospital --hold-out north
    --model hist-gradient-boosting`

    - `domaingrad train --data colored-mnist:DIR --hold-out=-90% --method sand-mask --set tau=0.8`

    - `domaingrad train --data PACS/ --hold-out sketch --method and-mask --devices 4`
    """
    errors = Console(stderr=True)
    with bad_input(errors):
        chosen = dict(settings) | {
            "data": data, "hold_out": hold_out, "method": method, "seed": seed, "trial": trial,
            "hyperparameters": _pairs(set_) or None,
        }  # fmt: skip
        if model is not None:
            told = of_model(model)
            if twice := [name for name in told if chosen.get(name) not in (None, model)]:
                raise DataError(
                    f"--model {model} is a {twice[0]}; found --{twice[0]} {chosen[twice[0]]}, too."
                )
            chosen |= told
        resolved = config_of(config, without_none(chosen))
        place = out or Path("runs/train") / name_of(resolved)
        processes = processes_of(devices, nodes)
        shown = Console(stderr=True, quiet=processes != (1, 1) and not is_first_on_node())
        with TrainingView(shown) as view, ended_together(errors):
            result = run_training(
                resolved, place, listener=view.listener, processes=processes,
                loggers=options.listed(loggers) or (),
            )  # fmt: skip
    if is_first():
        _tell(result, errors, as_json)


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name or not value:
            raise DataError(f"expected --set NAME=VALUE, as --set tau=0.8; found {text!r}.")
        if name.strip() in pairs:
            raise DataError(f"expected each hyper-parameter once; found {name.strip()!r} twice.")
        pairs[name.strip()] = value.strip()
    return pairs


def _tell(result: Result, errors: Console, as_json: bool) -> None:
    """What came out; the held-out score is opened here, after the end."""
    for warning in result.warnings:
        say(errors, f"Warning: {warning}")
    if as_json:
        echo_json(_as_json(result))
    else:
        print_table(_table(result), Console())
    place = result.directory
    if place.model.exists():
        say(
            errors, f"The model is {place.model}; domaingrad evaluate {place.path} says more of it."
        )
    else:
        say(errors, "The model is not kept.")


def _as_json(result: Result) -> dict[str, Any]:
    held_out = result.held_out
    return {
        "directory": str(result.directory.path),
        "method": result.config.method,
        "hold_out": result.config.hold_out,
        "selected_step": result.selected.step,
        "source_validation": result.selected.val_score,
        "held_out": None if held_out is None else held_out.score,
        "beside": {
            "source_validation": dict(result.selected.beside),
            "held_out": {} if held_out is None else dict(held_out.beside),
        },
        "estimate": result.estimate and result.estimate.scores,
        "seconds": result.seconds,
    }


def _table(result: Result) -> Table:
    table = Table("", "score", box=None, show_header=False)
    table.add_row(
        "source validation",
        f"{_number(result.selected.val_score, result, result.selected.beside)} at step "
        f"{result.selected.step}, which is selected by it",
    )
    if result.held_out is not None:
        told = _number(result.held_out.score, result, result.held_out.beside)
        table.add_row(terminal(f"{result.config.hold_out}, held out"), f"{told} on 80 % of it")
    if result.estimate is not None:
        scores = result.estimate.scores
        for name, score in scores.items():
            own = result.estimate.results[name].held_out
            beside = {} if own is None else own.beside
            table.add_row(terminal(f"{name}, while held out"), _number(score, result, beside))
        mean = sum(scores.values()) / len(scores)
        worst = min(scores, key=lambda name: scores[name])
        table.add_row(
            "estimate for a new domain",
            terminal(
                f"{_number(mean, result)} (mean), {_number(scores[worst], result)} (worst: {worst})"
            ),
        )
    return table


def _number(score: float, result: Result, beside: Mapping[str, float] | None = None) -> str:
    return in_words(score, result.task, result.config.metric, beside)
