"""What a step of each method costs, over ERM's step on the same batches.

    python benchmarks/methods_cost.py [--rounds 9] [--threads 2] [--case NAME] [--methods A,B]

A step is the learner's whole update: passes, gradients, optimizers. Each method alternates with ERM
in one process and is then let go, so that memory holds two of them. What waits for an update (an
anneal, the classifier's warm-up) is past from the first step on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from typing import Annotated, NamedTuple

import torch
import typer
from models import resnet18
from timing import ALTERNATION, Timing, Way, header, measure, rows, write
from torch import nn
from torch.amp import GradScaler
from torch.nn import functional as F

from domaingrad.bench.domains import Training
from domaingrad.bench.methods import (
    LITERATURE,
    METHODS,
    Amp,
    Batches,
    Learner,
    Method,
    Setup,
    listed_methods,
)
from domaingrad.bench.models import Network, freeze_norms, mlp, mnist_cnn
from domaingrad.bench.names import look_up
from domaingrad.bench.runs.optimizers import Optimizers

DOMAINS = ("one", "two", "three")
LATE = ("anneal", "irm_anneal", "linear_share")
WANTED = {
    **dict.fromkeys(("irm", "vrex", "groupdro", "sd", "eqrm", "mixup"), 1.05),
    **dict.fromkeys(("coral", "mmd", "causirl-coral", "causirl-mmd", "fishr"), 1.10),
    **dict.fromkeys(("fish", "fish-published", "pogm"), 1.30),
}
"""The most that a step may cost, in ERM's, on ResNet-18 with 3 × 16 images of 64²."""


class Case(NamedTuple):
    """A network with batches of three domains."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    samples: int
    classes: int


CASES = {
    "ResNet-18, 64², 3×16": Case(lambda: resnet18(7), (3, 64, 64), 16, 7),
    "MNIST CNN, 28², 3×64": Case(lambda: mnist_cnn((2, 28, 28), 2), (2, 28, 28), 64, 2),
}
TINY = {"MLP, 4², 3×4": Case(lambda: mlp((2, 4, 4), 2, (8,)), (2, 4, 4), 4, 2)}


class Alone:
    """One process."""

    world = 1

    def wrapped(self, model: nn.Module) -> nn.Module:
        """As it is."""
        return model

    def average_gradients(self, parameters: Iterable[nn.Parameter], samples: int) -> None:
        """Nothing to do."""


def step_of(method: Method, case: Case) -> Way:
    """A whole update of a fresh learner, on a batch that stays."""
    names = {field.name for field in fields(method)}
    method = replace(method, **{name: 0 for name in LATE if name in names})
    torch.manual_seed(0)
    network = Network(case.build(), case.shape)
    freeze_norms(network)
    generator = torch.Generator().manual_seed(0)
    batches: Batches = {
        name: (
            torch.randn(case.samples, *case.shape, generator=generator),
            torch.randint(case.classes, (case.samples,), generator=generator),
        )
        for name in DOMAINS
    }
    training = Training(
        steps=10**9, batch=case.samples, learning_rate=1e-5, weight_decay=0.0,
        schedule="constant", checkpoints=1,
    )  # fmt: skip
    optimizers = Optimizers(training)
    learner: Learner[Method] = method.learner(
        Setup(
            network=network.train(),
            domains=DOMAINS,
            steps=10**9,
            loss=lambda outputs, labels: F.cross_entropy(outputs, labels, reduction="none"),
            optimizer=optimizers,
            amp=Amp(GradScaler("cpu", enabled=False)),
            generator=generator,
            processes=Alone(),
            outputs=case.classes,
        )
    )

    def step() -> None:
        learner.update(batches)
        optimizers.advance(learner.optimizers())
        learner.step += 1

    return step


def told(name: str, title: str, timing: Timing) -> str:
    """A row, with what is wanted where that is known."""
    (row,) = rows(title, {name: timing})
    wanted = WANTED.get(name) if title.startswith("ResNet-18") else None
    if wanted is None or timing.failure is not None:
        return row
    over = "≤" if timing.ratio <= wanted else "over"
    return f"{row.removesuffix(' |')} ({over} {wanted}) |"


def main(
    rounds: Annotated[int, typer.Option(help="Rounds to take the median over.")] = 9,
    threads: Annotated[int, typer.Option(help="Threads for PyTorch.")] = 2,
    case: Annotated[str, typer.Option(help="Only cases whose title holds this.")] = "",
    methods: Annotated[str, typer.Option(help="Only these, with commas.")] = "",
    tiny: Annotated[bool, typer.Option(help="A perceptron alone, to test the script.")] = False,
) -> None:
    """Measure, print the table, and write it to benchmarks/results, if it is whole."""
    torch.set_num_threads(threads)
    listed = [name for name in listed_methods() if name != "erm"]
    chosen = [look_up("method", name, METHODS).info.name for name in methods.split(",") if name]
    table = header("ERM")
    for title, each in (TINY if tiny else CASES).items():
        if case not in title:
            continue
        for place, name in enumerate(chosen or listed):
            ways = {"erm": step_of(METHODS["erm"], each), name: step_of(METHODS[name], each)}
            timings = measure(ways, rounds, f"{title}: {name}", before=lambda: None)
            if place == 0:
                table.append(told("erm", title, timings["erm"]))
            table.append(told(name, title, timings[name]))
    whole = not (case or chosen or tiny)
    write(
        "methods_cost" if whole else None,
        "Cost of a step of each method",
        f"python benchmarks/methods_cost.py --rounds {rounds} --threads {threads}",
        [
            f"{len(LITERATURE)} methods of the literature, rules and dropouts. BatchNorm is "
            f"frozen. {ALTERNATION}",
            "\n".join(table),
        ],
    )


if __name__ == "__main__":
    typer.run(main)
