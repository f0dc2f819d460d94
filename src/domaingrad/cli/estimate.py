"""`domaingrad estimate`: how well will a trained model do on samples without labels?"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from domaingrad.bench import Estimates, Estimation, json_of
from domaingrad.bench import estimate as run_estimation

from .errors import bad_input
from .evaluate import Run
from .training_view import TrainingView

BLIND = (
    "Both go by the model's confidence alone. They do not see a shift that leaves it as it is: "
    "labels that mean something else there, classes that training has not seen, or inputs of which "
    "the model is wrongly sure."
)


def estimate(
    run: Run,
    files: Annotated[
        list[str], typer.Argument(help="Images, folders of them or patterns; or tables.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Estimate the accuracy on new samples that have no labels, and how far to trust that.

    By average thresholded confidence (ATC) and by the difference of confidences (DoC); both are
    checked on the domains that trainings of this run have held out, so `--hold-out none` checks
    them on every domain.

    - `domaingrad estimate runs/train/PACS-none-erm-1a2b3c4d new_photos/`
    """
    errors = Console(stderr=True)
    with bad_input(errors), TrainingView(errors) as view:
        found = run_estimation(run, files, view.listener.news)
    if as_json:
        typer.echo(json_of(asdict(found) | {"errors": found.errors()}))
        return
    console = Console()
    console.print(_table(found))
    console.print(_trust(found), highlight=False, soft_wrap=True)
    console.print(BLIND, highlight=False, soft_wrap=True)


def _table(found: Estimation) -> Table:
    right = {"justify": "right"}
    table = Table("", *(Column(name, **right) for name in ("ATC", "DoC", "true")), box=None)  # type: ignore[arg-type]
    table.add_row(f"{found.samples:,} new samples", *_texts(found.estimates), "?")
    for domain, (truth, told) in found.checks.items():
        table.add_row(f"{escape(domain)}, while held out", *_texts(told), f"{100 * truth:.1f} %")
    table.add_row("sources, validation", "", "", f"{100 * found.source_accuracy:.1f} %")
    return table


def _texts(told: Estimates) -> tuple[str, str]:
    return f"{100 * told.atc:.1f} %", f"{100 * told.doc:.1f} %"


def _trust(found: Estimation) -> str:
    if not found.checks:
        return "No domain has been held out, so nothing is known of how good these estimates are."
    (atc, most), (doc, largest) = found.errors().values()
    domains = f"the {len(found.checks)} domains" if len(found.checks) > 1 else "the domain"
    return (
        f"On {domains} held out, ATC was off by {100 * atc:.1f} points in the mean and "
        f"{100 * most:.1f} at most, DoC by {100 * doc:.1f} and {100 * largest:.1f}."
    )
