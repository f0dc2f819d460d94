"""What a training step with GSNR-guided dropout costs, over a plain one.

    python benchmarks/gsnr_dropout_cost.py [--rounds 9] [--threads 2] [--case NAME]

A step is forward, backward and the optimiser (SGD with momentum); with dropout, ``update`` comes
before it: statistics over the samples, the virtual step and its test where the ratio is learned,
the ranking, and the masks. With ``refresh=4``, four steps are timed and divided by four.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Annotated, Any, NamedTuple

import torch
import typer
from models import ViT, mnist_cnn, resnet18
from timing import ALTERNATION, Way, header, measure, rows, write
from torch import Tensor, nn
from torch.nn import functional as F

import domaingrad as dg
from domaingrad.bench.models import mlp

DOMAINS = 3
REFRESH = 4

NOTE = (
    f"{DOMAINS} domains of equal size. All ways run {REFRESH} steps of forward, backward and SGD "
    "with momentum; times are for one of them. BatchNorm is in training mode. Plain: the same "
    "steps without dropout."
)


class Case(NamedTuple):
    """A model with samples."""

    model: nn.Module
    x: Tensor
    y: Tensor


def cases() -> dict[str, Callable[[], Case]]:
    """Models with batches, by title."""
    return {
        "MLP 3×1024, 3 × 64": lambda: _case(mlp((784,), 10, (1024,) * 3), (784,), 192, 10),
        "MNIST CNN, 28², 3 × 24": lambda: _case(mnist_cnn(2), (2, 28, 28), 72, 2),
        "ViT, 64², 3 × 16": lambda: _case(ViT(7), (3, 64, 64), 48, 7),
        "ResNet-18, 64², 3 × 16": lambda: _case(resnet18(7), (3, 64, 64), 48, 7),
    }


def _case(model: nn.Module, shape: tuple[int, ...], samples: int, classes: int) -> Case:
    return Case(model, torch.randn(samples, *shape), torch.randint(classes, (samples,)))


def steps(case: Case, **options: Any) -> Way:
    """``REFRESH`` training steps, with dropout if there are options."""
    model = deepcopy(case.model)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    dropout = dg.GSNRDropout(model, **options) if options else None
    if dropout is not None:
        dropout.hold(optimizer)
    domain = torch.arange(len(case.y)) % DOMAINS

    def losses(outputs: Tensor) -> Tensor:
        return F.cross_entropy(outputs, case.y, reduction="none")

    def run() -> None:
        for _ in range(REFRESH):
            if dropout is not None:
                dropout.update(case.x, losses, domain)
            losses(model(case.x)).mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    return run


def main(
    rounds: Annotated[int, typer.Option(help="Rounds to take the median over.")] = 9,
    threads: Annotated[int, typer.Option(help="Threads for PyTorch.")] = 2,
    case: Annotated[str, typer.Option(help="Only cases whose title holds this.")] = "",
) -> None:
    """Measure, print the table, and write it to benchmarks/results (unless for one case)."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    table = header("plain step")
    for title, make in cases().items():
        if case not in title:
            continue
        one = make()
        ways = {
            "plain": steps(one),
            "fixed ratio": steps(one, ratio=1 / 3),
            "fixed ratio, refresh=4": steps(one, ratio=1 / 3, refresh=REFRESH),
            "learned ratio": steps(one, ratio="learned"),
            "learned ratio, refresh=4": steps(one, ratio="learned", refresh=REFRESH),
            "learned ratio, on gradients": steps(one, ratio="learned", mask="gradients"),
            "learned ratio, on gradients, refresh=4": steps(
                one, ratio="learned", mask="gradients", refresh=REFRESH
            ),
        }
        timings = measure(ways, rounds, title, before=lambda: None, slow=10.0)
        for timing in timings.values():
            timing.seconds = [seconds / REFRESH for seconds in timing.seconds]
        table += rows(title, timings)
    write(
        None if case else "gsnr_dropout_cost",
        "Cost of a step with GSNR-guided dropout",
        f"python benchmarks/gsnr_dropout_cost.py --rounds {rounds} --threads {threads}",
        [f"{NOTE} {ALTERNATION}", "\n".join(table)],
    )


if __name__ == "__main__":
    typer.run(main)
