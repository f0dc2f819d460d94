"""Real runs of `domaingrad train`: four methods on photographs, digits and patients.

    python benchmarks/train.py --shared DIR [--jobs 2] [--only NAME]

DIR holds what benchmarks/sources.py names. Each run is what the command beside its table does, with
the domains held out in turn and trials 0, 1, …; finished runs are not done again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, pstdev
from typing import Annotated

import sources
import torch
import typer
from joblib import Parallel, delayed
from timing import RESULTS, environment, write_sections

from domaingrad.bench.methods import METHODS
from domaingrad.bench.runs.settings import TrainConfig
from domaingrad.bench.runs.training import train

ORDER = ("Heart disease, four hospitals", "PACS at 64²", "ColoredMNIST", "RotatedMNIST")
COMPARED = ("erm", "and-mask", "sand-mask", "agr-sum")


@dataclass(frozen=True)
class Study:
    """One table."""

    title: str
    command: str
    """Without method, held-out domain and trial."""
    config: TrainConfig
    held_out: tuple[str, ...]
    trials: int
    words: str


@dataclass(frozen=True)
class Done:
    """What came of one run."""

    method: str
    held_out: str
    trial: int
    validation: float
    score: float
    seconds: float


def of_pacs(shared: Path, data: Path) -> Study:
    """Photographs, from pretrained weights."""
    prepared(sources.pacs, shared, data)
    weights = shared / "weights" / "squeezenet1_0_imagenet.npz"
    return Study(
        title="PACS at 64²",
        command="domaingrad train --data pacs:DIR --size 64 --backbone torchvision:squeezenet1_0 "
        "--weights FILE --augment crop,flip,color,gray --steps 100 --batch 16 "
        "--learning-rate 1e-4 --checkpoints 2",
        config=TrainConfig(
            f"pacs:{data / 'PACS'}", None, data_options={"size": 64},
            backbone="torchvision:squeezenet1_0", weights=str(weights), steps=100, batch=16,
            learning_rate=1e-4, checkpoints=2, accelerator="cpu",
            augment=("crop", "flip", "color", "gray"),
        ),
        held_out=("art_painting", "cartoon", "photo", "sketch"),
        trials=1,
        words="SqueezeNet 1.0 with ImageNet weights; 100 steps where DomainBed takes 5000, at 64² "
        "where it has 224², because of two cores: these are not PACS results as published.",
    )  # fmt: skip


def of_heart(shared: Path, data: Path) -> Study:
    """Patients of four hospitals."""
    prepared(sources.heart, shared, data)
    return Study(
        title="Heart disease, four hospitals",
        command="domaingrad train --data heart.csv --target disease --domain site --missing '?' "
        "--categorical cp,restecg,slope --drop ca,thal --backbone mlp",
        config=TrainConfig(
            f"csv:{data / 'heart.csv'}", None, accelerator="cpu", backbone="mlp",
            data_options={
                "target": "disease", "domain": "site", "missing": ("?",), "drop": ("ca", "thal"),
                "categorical": ("cp", "restecg", "slope"),
            },
        ),
        held_out=("cleveland", "hungarian", "switzerland", "va"),
        trials=3,
        words="Disease if the table's `num` is above 0. `ca` and `thal` are left out: they are "
        "nearly all missing outside Cleveland.",
    )  # fmt: skip


def colored(shared: Path, data: Path) -> Study:
    """Colour against shape."""
    prepared(sources.mnist, shared, data)
    return _digits("ColoredMNIST", "colored-mnist", data, ("+90%", "+80%", "-90%"))


def rotated(shared: Path, data: Path) -> Study:
    """The last of the angles."""
    prepared(sources.mnist, shared, data)
    return _digits("RotatedMNIST", "rotated-mnist", data, ("75°",))


def prepared(prepare: Callable[[Path, Path], None], shared: Path, data: Path) -> None:
    """Once."""
    if not data.exists():
        data.mkdir(parents=True)
        prepare(shared, data)


def _digits(title: str, kind: str, folder: Path, held_out: tuple[str, ...]) -> Study:
    return Study(
        title=title,
        command=f"domaingrad train --data {kind}:DIR --steps 100 --batch 32 --checkpoints 1",
        config=TrainConfig(
            f"{kind}:{folder}", None, steps=100, batch=32, checkpoints=1, accelerator="cpu"
        ),
        held_out=held_out,
        trials=1,
        words="MNIST CNN; 10,000 of 70,000 digits, 100 steps of 32 per domain where DomainBed "
        "takes 5000 of 64, because of two cores.",
    )


def one(config: TrainConfig, out: Path) -> Done:
    """One run, on one thread."""
    torch.set_num_threads(1)
    place = out / f"{config.method}-{config.hold_out}-{config.trial}"
    result = train(config, place)
    assert result.held_out is not None
    assert config.hold_out is not None
    return Done(
        config.method, config.hold_out, config.trial, result.selected.val_score,
        result.held_out.score, result.seconds,
    )  # fmt: skip


def carried_out(study: Study, out: Path, jobs: int) -> list[Done]:
    """All runs of a study, some at a time."""
    configs = [
        replace(study.config, method=method, hold_out=held_out, trial=trial)
        for trial in range(study.trials)
        for held_out in study.held_out
        for method in COMPARED
    ]
    done: list[Done] = []
    began = time.perf_counter()
    work = Parallel(jobs, return_as="generator_unordered")
    for result in work(delayed(one)(config, out) for config in configs):
        done.append(result)
        left = (time.perf_counter() - began) / len(done) * (len(configs) - len(done))
        typer.echo(
            f"{study.title}: {len(done)}/{len(configs)} {result.method}, {result.held_out}, "
            f"{left / 60:.0f} min left",
            err=True,
        )
    return done


def cell(values: Sequence[float]) -> str:
    """Mean ± standard error (ddof 0), in %."""
    text = f"{100 * mean(values):.1f}"
    if len(values) > 1:
        text += f"±{100 * pstdev(values) / len(values) ** 0.5:.1f}"
    return text


def section(study: Study, done: Sequence[Done]) -> str:
    """A table of Markdown with its command, without its title."""
    lines = [
        f"`{study.command} --method METHOD --hold-out DOMAIN --trial 0 … {study.trials - 1}`"
        if study.trials > 1
        else f"`{study.command} --method METHOD --hold-out DOMAIN`",
        study.words,
    ]
    head = ["method", "sources", *study.held_out, "average", "worst", "minutes"]
    table = [head, ["---"] * len(head)]
    for method in COMPARED:
        own = [each for each in done if each.method == method]
        columns = {
            name: [each.score for each in own if each.held_out == name] for name in study.held_out
        }
        means = {name: mean(scores) for name, scores in columns.items()}
        worst = min(means, key=lambda name: means[name])
        table.append(
            [
                METHODS[method].title,
                cell(
                    [
                        mean(each.validation for each in own if each.trial == trial)
                        for trial in range(study.trials)
                    ]
                ),
                *(cell(scores) for scores in columns.values()),
                f"{100 * mean(means.values()):.1f}",
                f"{100 * means[worst]:.1f} ({worst})",
                f"{sum(each.seconds for each in own) / 60:.1f}",
            ]
        )
    lines.append("\n".join(f"| {' | '.join(row)} |" for row in table))
    return "\n\n".join(lines)


STUDIES: dict[str, Callable[[Path, Path], Study]] = {
    "heart": of_heart, "pacs": of_pacs, "colored": colored, "rotated": rotated
}  # fmt: skip


def main(
    shared: Annotated[Path, typer.Option(help="Where the sources are.")],
    jobs: Annotated[int, typer.Option(help="Runs at a time, one thread each.")] = 2,
    only: Annotated[str, typer.Option(help=f"One of {', '.join(STUDIES)}.")] = "",
    out: Annotated[Path, typer.Option(help="Where the runs go.")] = Path("runs/benchmark-train"),
) -> None:
    """Run what is not there yet, and write benchmarks/results/train.md."""
    for name, make in STUDIES.items():
        if name.startswith(only):
            study = make(shared.absolute(), out / "data" / name)
            text = section(study, carried_out(study, out / study.title, jobs))
            typer.echo(text)
            write({study.title: text})


def write(sections: Mapping[str, str]) -> None:
    """The page; sections that were there and are not made anew stay."""
    head = [
        "# Training with one domain held out",
        "`python benchmarks/train.py --shared DIR`",
        environment(),
        "Accuracy in %, mean ± standard error over trials (ddof 0), at the checkpoint with the "
        "best source validation, which is what *sources* shows; then on 80 % of each domain "
        "while it is held out. One thread a run; minutes are those of all runs of a row. "
        "Default hyper-parameters, one seed, nothing tuned. ColoredMNIST, RotatedMNIST and the "
        "three sets of digits are in the [comparison](comparison.md), whose runs are what "
        "`domaingrad train` does with the same settings.",
    ]
    write_sections(RESULTS / "train.md", head, sections, ORDER)


if __name__ == "__main__":
    typer.run(main)
