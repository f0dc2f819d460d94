"""`domaingrad ablate`: what part of a method matters?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from domaingrad.bench import ABLATIONS

from .session import AsJson, Data, Jobs, Out, Seed, Steps, Trials, compare_built_in

app = typer.Typer(no_args_is_help=True)


@app.command("gsnr")
def gsnr(
    data: Data = ["spirals", "colored-digits", "rotated-digits"],  # noqa: B006 - typer reads it
    trials: Trials = 5,
    steps: Steps = None,
    seed: Seed = 0,
    rescale: Annotated[
        bool, typer.Option("--rescale", help="Divide the weights that are kept by their share.")
    ] = False,
    out: Out = Path("runs/ablate-gsnr"),
    jobs: Jobs = None,
    as_json: AsJson = False,
) -> None:
    """GSNR-guided dropout: does it matter which weights are dropped?

    Trains with the weights dropped that have the highest GSNR (the published method), the lowest,
    the largest gradient, or that are drawn at random, each with a fixed ratio (1/3, so that all
    drop equally many) and with a learned one; and ERM, which drops none. Reports as `compare`
    does, with differences paired over trials.

    - `domaingrad ablate gsnr --data rotated-digits --trials 10`
    - `domaingrad ablate gsnr --rescale --out runs/ablate-gsnr-rescaled`
    """
    dropped = ABLATIONS["gsnr, rescaled" if rescale else "gsnr"]
    methods = ["erm", *(method.info.name for method in dropped)]
    compare_built_in(data, methods, trials, steps, seed, out, jobs, as_json)
