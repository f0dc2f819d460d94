"""`domaingrad compare`: methods side by side on data that needs no download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from domaingrad.bench import QUICK, listed_methods

from .session import AsJson, Data, Jobs, Out, Seed, Steps, Trials, compare_built_in


def compare(
    data: Data = ["spirals", "colored-digits"],  # noqa: B006 - typer reads the default
    methods: Annotated[
        list[str],
        typer.Option(help=f"Methods, repeated or with commas: {', '.join(listed_methods())}."),
    ] = list(QUICK),  # noqa: B006
    trials: Trials = 3,
    steps: Steps = None,
    seed: Seed = 0,
    out: Out = Path("runs/compare"),
    jobs: Jobs = None,
    as_json: AsJson = False,
) -> None:
    """Compare methods on a domain that training never sees.

    Holds out each domain in turn, trains every method on the others, and reports the accuracy on
    the held-out one: a table, `results.csv`, `results.md`, `results.tex` and `report.html`.
    Held-out accuracy stays sealed until training ends, and selects nothing but what is called an
    oracle. For data of your own and searched hyper-parameters, see `domaingrad sweep`.

    Runs stay in `--out`; the same command goes on from there, also after Ctrl-C.

    - `domaingrad compare` (Spirals and coloured digits, the methods whose step costs little more
      than ERM's)

    - `domaingrad compare --data rotated-digits --methods erm,and-mask,gsnr-dropout --trials 5`
    """
    compare_built_in(data, methods, trials, steps, seed, out, jobs, as_json)
