"""Runs a minute, alone and together: what training small networks side by side saves.

    python benchmarks/stacked.py [--rounds 3] [--case NAME]

Whole runs of a sweep, as a worker on one thread carries them out: data in hand, network, steps,
checkpoints, agreement, records on disk. R runs together against runs alone, in alternation; all
have the defaults of their data, and differ in trial and held-out domain.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from timing import RESULTS, environment, write_sections

from domaingrad.bench import SweepConfig, plan_sweep
from domaingrad.bench.runs import Bundle, Failed, PlannedRun, SweepDirectory
from domaingrad.bench.runs.attempts import attempt, places_of

DOMAINS, METHODS = 4, ("erm", "and-mask")
TOGETHER = (4, 16, 64)
"""R."""


HEAD = (
    "# Runs that train together",
    "Runs a minute of one process with one thread, alone and R together, and how many times those "
    "alone: whole runs of a sweep, records included; medians of the rounds. Two processes on two "
    "cores have twice as many of either.",
)


class Case(NamedTuple):
    """Data, and how long runs are."""

    width: int | None
    """Of generated vectors, 700 in each of four domains; ``None`` for Spirals."""
    classes: int
    settings: Mapping[str, Any]


CASES = {
    "Linear 512→7": Case(512, 7, {"head": "linear"}),
    "tabular MLP, 13→128→128→2": Case(13, 2, {"backbone": "mlp", "steps": 1000}),
    "Spirals MLP, 16 domains": Case(None, 2, {"steps": 300}),
}


def vectors(place: Path, width: int, classes: int) -> str:
    """A file of vectors around centres."""
    generator = np.random.default_rng(0)
    label = generator.integers(0, classes, 700 * DOMAINS)
    centres = 0.3 * generator.normal(size=(classes, width))
    x = centres[label] + generator.normal(size=(len(label), width))
    path = place / "vectors.npz"
    domain = np.repeat(list("abcd"), 700)
    np.savez(path, x=x.astype("f4"), label=label, domain=domain)
    return str(path)


def seconds(runs: tuple[PlannedRun, ...], place: Path, together: bool) -> float:
    """A run takes, together or alone."""
    with tempfile.TemporaryDirectory(dir=place) as out:
        directory = SweepDirectory(Path(out))
        directory.make()
        bundles = [Bundle(runs, together=True)] if together else [Bundle((one,)) for one in runs]
        began = time.perf_counter()
        for bundle in bundles:
            places = places_of(bundle, directory.place)
            for ended in attempt(bundle, places, False, lambda _: None):
                if isinstance(ended, Failed):
                    raise SystemExit(ended.cause)
        return (time.perf_counter() - began) / len(runs)


def main(
    rounds: Annotated[int, typer.Option(help="Rounds of alternation.")] = 3,
    case: Annotated[list[str], typer.Option(help="Parts of names; all unless told.")] = [],  # noqa: B006
) -> None:
    """Measure, and write benchmarks/results/stacked.md, case by case."""
    chosen = {n: c for n, c in CASES.items() if not case or any(each in n for each in case)}
    for name, given in chosen.items():
        lines = [
            "| method | alone | " + " | ".join(f"R = {r}" for r in TOGETHER) + " |",
            "|---|---|" + "---|" * len(TOGETHER),
        ]
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            data = "spirals" if given.width is None else vectors(place, given.width, given.classes)
            held_out = 1 if given.width is None else DOMAINS
            for method in METHODS:
                config = SweepConfig(
                    data=(data,), methods=(method,), trials=max(TOGETHER) // held_out, draws=1,
                    settings={"accelerator": "cpu", **given.settings},
                )  # fmt: skip
                runs = plan_sweep(config, place / "sweep", jobs=1).plan.runs
                seconds(runs[:1], place, together=False)  # what is read and compiled once
                alone: list[float] = []
                found: dict[int, list[float]] = {count: [] for count in TOGETHER}
                for _ in range(rounds):
                    alone.append(seconds(runs[:4], place, together=False))
                    for count in TOGETHER:
                        found[count].append(seconds(runs[:count], place, together=True))
                one = statistics.median(alone)
                cells = [f"{60 / one:.0f}"]
                for each in found.values():
                    taken = statistics.median(each)
                    cells.append(f"{60 / taken:.0f} ({one / taken:.1f} ×)")
                lines.append(f"| {method} | " + " | ".join(cells) + " |")
                typer.echo(lines[-1])
        command = f"`python benchmarks/stacked.py --rounds {rounds} --case '{name[:8]}'`"
        sections = {name: "\n\n".join([command, environment(), "\n".join(lines)])}
        write_sections(RESULTS / "stacked.md", HEAD, sections, list(CASES))


if __name__ == "__main__":
    typer.run(main)
