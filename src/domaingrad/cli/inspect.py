"""`domaingrad inspect`: where do the source domains of a trained model conflict?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from domaingrad.bench import Inspection, json_of, print_whole, written_to
from domaingrad.bench import inspect as run_inspection
from domaingrad.inspect import Interval, plot_conflict

from .errors import bad_input
from .evaluate import Run
from .training_view import TrainingView


def inspect(
    run: Run,
    samples: Annotated[int, typer.Option(help="Samples of each source domain.")] = 64,
    seed: Annotated[int, typer.Option(help="From which the samples are drawn.")] = 0,
    plot: Annotated[
        Path | None, typer.Option(help="A picture of it: a .png, .svg or .pdf to write.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """See where the source domains' gradients conflict, at a trained model.

    Cosines between the domains, the share of components on whose sign all agree and the gradient
    signal-to-noise ratio, layer by layer; and whether batches of one domain are more alike than
    batches of different domains, class by class. The domain held out is not looked at.

    - `domaingrad inspect runs/train/PACS-sketch-erm-1a2b3c4d --samples 32 --plot conflict.png`
    """
    errors = Console(stderr=True)
    with bad_input(errors), TrainingView(errors) as view:
        found = run_inspection(run, samples, seed, view.listener.news)
        if plot is not None:
            with written_to(plot):
                plot_conflict(found.conflict, plot, found.domains, found.gsnr)
    if as_json:
        typer.echo(json_of(_as_json(found)))
        return
    console = Console()
    print_whole(console, _cosines(found))
    print_whole(console, _layers(found))
    if found.similarity is not None:
        console.print(
            f"Same class: cosine {_interval(found.similarity.intra)} within a domain, "
            f"{_interval(found.similarity.inter)} between domains (95 % by bootstrap).",
            highlight=False,
        )


def _cosines(found: Inspection) -> Table:
    table = Table("cosine", box=None)
    for name in found.domains:
        table.add_column(escape(name), justify="right")
    for name, row in zip(found.domains, found.conflict.cosines.tolist(), strict=True):
        table.add_row(escape(name), *(f"{value:.3f}" for value in row))
    return table


def _layers(found: Inspection) -> Table:
    table = Table("layer", box=None)
    for title in ("mean cosine", "agreement", "GSNR", "components"):
        table.add_column(title, justify="right")
    conflict = found.conflict
    for name, relation in {"model": conflict, **conflict.layers}.items():
        gsnr = f"{found.gsnr[name]:.4f}" if name in found.gsnr else ""
        if name == "model":
            gsnr = f"noise: {found.floor:.4f}"
        table.add_row(
            escape(name),
            f"{relation.mean_cosine:.3f}",
            f"{100 * relation.agreement:.1f} %",
            gsnr,
            f"{relation.components:,}",
        )
    return table


def _interval(found: Interval) -> str:
    return f"{found.mean:.3f} ({found.low:.3f} to {found.high:.3f})"


def _as_json(found: Inspection) -> dict[str, Any]:
    conflict = found.conflict
    return {
        "domains": list(found.domains),
        "samples": found.samples,
        "cosines": conflict.cosines.tolist(),
        "layers": {
            name: {
                "mean_cosine": relation.mean_cosine,
                "agreement": relation.agreement,
                "gsnr": found.gsnr.get(name),
                "components": relation.components,
            }
            for name, relation in {"model": conflict, **conflict.layers}.items()
        },
        "gsnr_of_noise": found.floor,
        "similarity": found.similarity
        and {"intra": vars(found.similarity.intra), "inter": vars(found.similarity.inter)},
    }
