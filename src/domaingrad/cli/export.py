"""`domaingrad export`: a trained model as a file that runs without this package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from domaingrad.bench import export as run_export

from .errors import bad_input
from .evaluate import Run
from .training_view import TrainingView


def export(
    run: Run,
    to: Annotated[
        Literal["torchscript", "onnx", "safetensors"],
        typer.Option(
            help="A program with preparation and a frozen backbone inside (torchscript, onnx), or "
            "the weights in the architecture's own names, described."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The file.  [default: RUN/exported.pt, .onnx, .safetensors]")
    ] = None,
    check: Annotated[
        list[str],
        typer.Option(help="Files to compare its predictions on.  [default: the run's own data]"),
    ] = [],  # noqa: B006 - typer reads it
) -> None:
    """Write the model of a run as a file that needs nothing of this package.

    The file is kept only if it predicts as the run does, on samples of the run's own data.

    - `domaingrad export runs/train/PACS-none-erm-1a2b3c4d --to onnx --out model.onnx`
    """
    errors = Console(stderr=True)
    with bad_input(errors), TrainingView(errors) as view:
        found = run_export(run, to, out, check=check, news=view.listener.news)
    errors.print(
        f"Wrote {found.path}; it predicts as the run does, to {found.difference:.1g} on "
        f"{found.samples} samples.",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
