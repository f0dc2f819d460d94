"""The ablation of GSNR dropout on PACS at 64², from a SqueezeNet trained on ImageNet.

    PACS=DIR SQUEEZENET=FILE python benchmarks/gsnr_pacs.py [--trials 1] [--steps 60] [--jobs 2]

DIR holds ``photo``, ``art_painting``, ``cartoon`` and ``sketch``, each with a folder a class; FILE
is an ``.npz`` of SqueezeNet 1.0's weights under torchvision's names. The paths come from the
environment, so that worker processes know them, too.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from models import SqueezeNet
from PIL import Image
from rich.console import Console
from torch import Generator, nn
from torch.utils.data import TensorDataset

from domaingrad.bench.domains import DATA_SETS, DataSet, Domains, Recipe
from domaingrad.bench.methods import ABLATIONS
from domaingrad.bench.reports import markdown, print_tables, results_csv, summarise, write_html
from domaingrad.bench.runs import Event, Failed, Finished, Records, execute, plan

DOMAINS = ("photo", "art_painting", "cartoon", "sketch")
SIZE = 64
PER_CLASS = 60
"""Images of each class and domain that are used, so that two cores can do it in half an hour."""


@cache
def images() -> dict[str, TensorDataset]:
    """Images as bytes [n, 3, 64, 64], with their classes in alphabetical order."""
    root = Path(os.environ["PACS"])
    classes = sorted(path.name for path in (root / DOMAINS[0]).iterdir() if path.is_dir())
    domains = {}
    for domain in DOMAINS:
        files = [
            (path, label)
            for label, name in enumerate(classes)
            for path in sorted((root / domain / name).iterdir())[:PER_CLASS]
        ]
        pixels = np.stack(
            [np.asarray(Image.open(path).convert("RGB").resize((SIZE, SIZE))) for path, _ in files]
        )
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
        domains[domain] = TensorDataset(x, torch.tensor([label for _, label in files]))
    return domains


def make_pacs(_: Generator) -> Domains:
    """The images; what varies by trial is the split."""
    return images()


def squeezenet(_: tuple[int, ...], classes: int) -> nn.Module:
    """SqueezeNet with its published weights, but for the head."""
    model = SqueezeNet(classes)
    with np.load(os.environ["SQUEEZENET"]) as archive:
        weights = {
            name: torch.from_numpy(archive[name]).float()
            for name in archive.files
            if name.startswith("features.")
        }
    missing = model.load_state_dict(weights, strict=False)
    if missing.unexpected_keys or any("features" in name for name in missing.missing_keys):
        raise ValueError(f"{os.environ['SQUEEZENET']} holds no SqueezeNet 1.0: {missing}")
    return model


DATA_SETS["pacs-64"] = DataSet(
    name="pacs-64",
    summary="PACS (photo, art painting, cartoon, sketch; seven classes) at 64×64, "
    f"the first {PER_CLASS} images of each class and domain.",
    source="Li et al., arXiv 1710.03077",
    make=make_pacs,
    sources=DOMAINS,
    held_out=DOMAINS,
    recipe=Recipe(
        model=squeezenet,
        steps=60,
        batch=16,
        learning_rate=3e-4,
        weight_decay=1e-4,
        checkpoints=2,
        chosen="settings guessed once and not tuned; no augmentation",
    ),
    classes=7,
)


def main(
    trials: Annotated[int, typer.Option(help="Trials.")] = 1,
    steps: Annotated[int, typer.Option(help="Training steps.")] = 60,
    jobs: Annotated[int, typer.Option(help="Runs at a time.")] = 2,
    out: Annotated[Path, typer.Option(help="Directory for records and the report.")] = Path(
        "runs/gsnr-pacs"
    ),
) -> None:
    """Run what is not there yet, and print the table."""
    comparison = plan(["pacs-64"], list(ABLATIONS["gsnr"]), trials, 0, steps)
    records = Records(out)
    finished = records.runs()
    causes: dict[str, str] = {}
    console = Console()

    def on_event(event: Event) -> None:
        if isinstance(event, Finished):
            config = event.record.config
            records.append(event.record, event.held_out)
            console.print(
                f"{config.method}, {config.held_out}, trial {config.trial + 1}: "
                f"{event.record.seconds:.0f} s"
            )
        elif isinstance(event, Failed):
            causes[event.config.key] = event.cause
            console.print(event.cause)

    execute([config for config in comparison.runs if config.key not in finished], jobs, on_event)
    summary = summarise(comparison, records, causes)
    print_tables(summary, console)
    results_csv(summary, out / "results.csv")
    command = (
        f"PACS=… SQUEEZENET=… python benchmarks/gsnr_pacs.py --trials {trials} --steps {steps}"
    )
    (out / "results.md").write_text(markdown(summary, command), encoding="utf-8")
    write_html(summary, [command], out / "report.html")


if __name__ == "__main__":
    typer.run(main)
