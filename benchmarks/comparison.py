"""The comparison of the README: seven methods on six data sets, by `domaingrad sweep`.

    python benchmarks/comparison.py --shared DIR [--jobs 2] [--only NAME] [--page]

DIR holds what benchmarks/sources.py names. Data are prepared below ``runs/comparison``, and so are
the sweeps, which go on where they were left. ``--page`` writes the page from what is there.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from sources import KEPT_DIGITS, digits, heart, mnist, nothing, pacs
from timing import RESULTS, environment, write_sections

from domaingrad.bench import inspect
from domaingrad.bench.reports import Summary, missing_lines, summarise
from domaingrad.bench.reports.tables import (
    CAPTION,
    PAIRED,
    PAIRED_COLUMNS,
    SIDE_BY_SIDE,
    columns,
    how,
    paired_texts,
    row_texts,
    side_by_side,
)
from domaingrad.bench.runs import RunDirectory, SweepDirectory

COMPARED = ("erm", "and-mask", "sand-mask", "agr-sum", "agr-rand", "pcgrad", "gsnr-dropout")

OUT = Path("runs/comparison")


@dataclass(frozen=True)
class Study:
    """One sweep."""

    name: str
    title: str
    words: str
    """What was scaled down."""
    prepare: Callable[[Path, Path], None]
    """From where the sources are to where the data go."""
    command: str
    """Arguments of the sweep; DATA stands for where the data are, SHARED for the sources."""

    def arguments(self, data: str, shared: str) -> list[str]:
        """With the places filled in."""
        text = self.command.replace("DATA", data).replace("SHARED", shared)
        return ["sweep", *shlex.split(text), "--methods", ",".join(COMPARED)]


STUDIES = (
    Study(
        "spirals", "Spirals", "3 draws where the benchmark has 20.",
        nothing,
        "--data spirals --draws 3 --trials 3",
    ),
    Study(
        "heart", "Heart disease, four hospitals",
        "Disease if the table's `num` is above 0. `ca` and `thal` are left out: they are nearly "
        "all missing outside Cleveland. 300 steps, 2 draws.",
        heart,
        "--data DATA/heart.csv --target disease --domain site --missing ? --categorical "
        "cp,restecg,slope --drop ca,thal --backbone mlp --draws 2 --trials 3 --steps 300 "
        "--checkpoints 5 --selection training-domain-validation,leave-one-domain-out,"
        "oracle-last,oracle-best",
    ),
    Study(
        "colored-mnist", "ColoredMNIST",
        "10,000 of 70,000 digits; 120 steps of 16 per domain where the benchmark takes 5,000 of "
        "64; one draw (defaults), one trial.",
        mnist,
        "--data colored-mnist:DATA --draws 1 --trials 1 --steps 120 --batch 16 --checkpoints 2",
    ),
    Study(
        "pacs", "PACS at 64²",
        "SqueezeNet 1.0 with ImageNet weights at 64² where the benchmark has ResNet-50 at 224²; "
        "60 steps of 16 per domain where it takes 5,000 of 32; one draw (defaults but for the "
        "learning rate), one trial.",
        pacs,
        "--data pacs:DATA/PACS --size 64 --backbone torchvision:squeezenet1_0 --weights "
        "SHARED/weights/squeezenet1_0_imagenet.npz --augment crop,flip,color,gray --draws 1 "
        "--trials 1 --steps 60 --batch 16 --learning-rate 2e-4 --checkpoints 1",
    ),
    Study(
        "rotated-mnist", "RotatedMNIST",
        "10,000 of 70,000 digits; one of six domains held out, the outermost angle; 120 steps of "
        "16 per domain where the benchmark takes 5,000 of 64; one draw (defaults), "
        "one trial.",
        mnist,
        "--data rotated-mnist:DATA --hold-out 75° --draws 1 --trials 1 --steps 120 --batch 16 "
        "--checkpoints 1",
    ),
    Study(
        "digits", "MNIST, MNIST-M, USPS",
        f"{KEPT_DIGITS:,} digits of each; no digit of MNIST's is one that MNIST-M's are made of. "
        "120 steps of 16 per domain; one draw (defaults but for the learning rate), one trial.",
        digits,
        "--data folder:DATA --size 32 --augment none --backbone mnist-cnn --learning-rate 1e-3 "
        "--draws 1 --trials 1 --steps 120 --batch 16 --checkpoints 1",
    ),
)  # fmt: skip


def carry_out(study: Study, shared: Path, jobs: int) -> None:
    """Prepare the data once, and sweep."""
    data = OUT / "data" / study.name
    if not data.exists():
        data.mkdir(parents=True)
        study.prepare(shared, data)
    arguments = study.arguments(str(data), str(shared))
    arguments += ["--accelerator", "cpu", "--keep-models", "--jobs", str(jobs)]
    command = [sys.executable, "-m", "domaingrad", *arguments, "--out", str(OUT / study.name)]
    subprocess.run(command, check=False)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))


def section(study: Study, summary: Summary, directory: SweepDirectory) -> Iterator[str]:
    """One data set of the page, without its title."""
    (data,) = summary.data
    yield f"`domaingrad {shlex.join(study.arguments('DATA', 'SHARED'))}`"
    yield f"{study.words} {how(summary, data)}: {data.data.recipe}; {data.data.chosen}."
    draws = summary.plan.request.draws
    yield table(columns(data), [row_texts(data, row, draws) for row in data.methods])
    heads = ["average by selection method", *data.tables]
    yield table(heads, list(side_by_side(data)))
    if paired := list(paired_texts(data)):
        yield table(PAIRED_COLUMNS, paired)
    if conflicts := list(conflict(summary, directory)):
        heads = ["held out", "mean cosine", "sign agreement", "same domain", "other domain"]
        yield table(heads, conflicts)
    if missing := missing_lines(summary):
        yield "Missing:\n" + "\n".join(f"- {line}" for line in missing)
    yield f"{summary.finished} runs, {summary.seconds / 60:.0f} minutes of one core."


def conflict(summary: Summary, directory: SweepDirectory) -> Iterator[tuple[str, ...]]:
    """`domaingrad inspect` of ERM's models of the first trial and draw."""
    for run in summary.plan.runs:
        config = run.config
        first = (config.method, config.trial, run.draw, config.also_hold_out) == ("erm", 0, 0, None)
        if not first or not directory.finished(run.key):
            continue
        found = inspect(RunDirectory(directory.place(run.key)))
        alike = ["–", "–"]
        if found.similarity is not None:
            alike = [
                f"{each.mean:.2f} ({each.low:.2f} to {each.high:.2f})"
                for each in (found.similarity.intra, found.similarity.inter)
            ]
        yield (
            str(config.hold_out),
            f"{found.conflict.mean_cosine:.2f}",
            f"{100 * found.conflict.agreement:.1f} %",
            *alike,
        )


def write_page(jobs: int) -> None:
    """From the sweeps that are there; other sections stay as they are."""
    sections = {}
    for study in STUDIES:
        directory = SweepDirectory.at(OUT / study.name)
        if directory is not None and (summary := summarise(directory)).finished:
            sections[study.title] = "\n\n".join(section(study, summary, directory))
    head = [
        "# Seven methods on six data sets",
        f"`python benchmarks/comparison.py --shared DIR --jobs {jobs}`",
        environment(),
        "The protocol is DomainBed's (arXiv 2007.01434), scaled down to what two cores can do; "
        "what is scaled is said at each data set. Paths in commands are shortened (DATA, SHARED). "
        f"{CAPTION} {SIDE_BY_SIDE} {PAIRED}",
        "Conflict: `domaingrad inspect` of ERM's models (first trial, defaults, at the selected "
        "checkpoint), 64 samples of each source: mean cosine between the sources' gradients, share "
        "of components on whose sign all agree, and cosines between batches of one class from the "
        "same and from other domains (95 % by bootstrap).",
    ]
    titles = [study.title for study in STUDIES]
    write_sections(RESULTS / "comparison.md", head, sections, titles)


def main(
    shared: Annotated[Path | None, typer.Option(help="Where the sources are.")] = None,
    jobs: Annotated[int, typer.Option(help="Runs at a time, one thread each.")] = 2,
    only: Annotated[str, typer.Option(help="One data set.")] = "",
    page: Annotated[bool, typer.Option("--page", help="Write the page alone.")] = False,
) -> None:
    """Run what is not there yet, and write the page."""
    for study in STUDIES:
        if not page and study.name.startswith(only):
            if shared is None:
                raise typer.BadParameter("--shared DIR is where the sources are.")
            carry_out(study, shared.absolute(), jobs)
            write_page(jobs)
    write_page(jobs)


if __name__ == "__main__":
    typer.run(main)
