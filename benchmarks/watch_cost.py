"""What looking at the conflict every 50 steps costs, over plain training.

    python benchmarks/watch_cost.py [--rounds 15] [--threads 2]

A way is one look (`dg.inspect.ConflictWatch`, which is one look in 50 calls) or one plain training
step (forward, backward, SGD with momentum). The cost in training is the ratio of the two, over 50.
"""

from __future__ import annotations

from typing import Annotated

import torch
import typer
from gsnr_dropout_cost import Case, cases
from timing import ALTERNATION, Way, measure, write
from torch import Tensor
from torch.nn import functional as F

from domaingrad.inspect import ConflictWatch

DOMAINS, EVERY = 3, 50


def step(case: Case) -> Way:
    """A plain training step."""
    optimizer = torch.optim.SGD(case.model.parameters(), 1e-3, momentum=0.9)

    def run() -> None:
        F.cross_entropy(case.model(case.x), case.y).backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def look(case: Case) -> Way:
    """A look; the watch is made with ``every=1``, so that each call is one."""
    watch = ConflictWatch(case.model, every=1)
    domain = torch.arange(len(case.y)) % DOMAINS

    def losses(outputs: Tensor) -> Tensor:
        return F.cross_entropy(outputs, case.y, reduction="none")

    return lambda: watch(case.x, losses, domain)


def main(
    rounds: Annotated[int, typer.Option(help="Rounds to take the median over.")] = 15,
    threads: Annotated[int, typer.Option(help="Threads for PyTorch.")] = 2,
) -> None:
    """Measure, print the table, and write it to benchmarks/results."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    table = [
        f"| case | plain step | one look | × plain | every {EVERY} steps |",
        "|---|---|---|---|---|",
    ]
    for title, make in cases().items():
        case = make()
        ways = {"step": step(case), "look": look(case)}
        found = measure(ways, rounds, title, before=lambda: None)
        plain, seen = found["step"], found["look"]
        table.append(
            f"| {title} | {1e3 * plain.median:.1f} ms | {1e3 * seen.median:.1f} ms "
            f"| {seen.ratio:.2f} ({seen.spread}) | +{100 * seen.ratio / EVERY:.1f} % |"
        )
    write(
        "watch_cost",
        "Cost of looking at the conflict through training",
        f"python benchmarks/watch_cost.py --rounds {rounds} --threads {threads}",
        [
            f"{DOMAINS} domains of equal size; the first look, with its checks, is among the "
            f"warm-up rounds. {ALTERNATION}",
            "\n".join(table),
        ],
    )


if __name__ == "__main__":
    typer.run(main)
