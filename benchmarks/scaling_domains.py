"""How the cost of a step grows with the number of domains, the batch staying the same.

    python benchmarks/scaling_domains.py [--rounds 9] [--threads 2] [--case NAME]

K = 2 … 100 domains share 100 or 800 samples, as evenly as they can. The ways are those of
``step_cost.py``; a way without our engine grows with K because each domain costs a pass of its own,
or K gradients of the model's size.
"""

from __future__ import annotations

from typing import Annotated

import torch
import typer
from models import mnist_cnn
from steps import Batch, batch, domainbed, erm, retained_graph, single_pass, streaming
from timing import ALTERNATION, Timing, Way, header, measure, rows, write

import domaingrad as dg
from domaingrad.bench.models import mlp

DOMAINS = (2, 3, 5, 10, 20, 50, 100)
MOST_RETAINED = 20
"""Domains up to which the graph is retained: a step then takes more than ten ERM steps."""

NOTE = (
    "AND-mask; forward, backward and rule, no optimiser. The first table holds the median ratios "
    "to a plain ERM step on the same samples, the second the spread. DomainBed's way and the "
    "retained graph are our own short versions of them."
)


def cases(domains: int) -> dict[str, Batch]:
    """Models with batches, by title."""
    return {
        "MNIST CNN, 28², 100 samples": batch(mnist_cnn(2), (2, 28, 28), domains, 100, 2),
        "MLP 3×1024, 800 samples": batch(mlp((784,), 10, (1024,) * 3), (784,), domains, 800, 10),
    }


def ways(b: Batch, rule: dg.ANDMask) -> dict[str, Way]:
    """The step in each way."""
    chosen = {
        "ERM": erm(b),
        "single pass": single_pass(b, rule),
        "streaming": streaming(b, rule),
        "DomainBed's way": domainbed(b),
        "retained graph": retained_graph(b),
    }
    if b.domains > MOST_RETAINED:
        del chosen["retained graph"]
    return chosen


def grid(title: str, by_count: dict[int, dict[str, Timing]]) -> list[str]:
    """A row for each way, a column for each number of domains."""
    names = [name for name in next(iter(by_count.values())) if name != "ERM"]
    return [
        f"| {title} | {name} | "
        + " | ".join(
            f"{timings[name].ratio:.2f}" if name in timings and timings[name].ratios else "–"
            for timings in by_count.values()
        )
        + " |"
        for name in names
    ]


def main(
    rounds: Annotated[int, typer.Option(help="Rounds to take the median over.")] = 9,
    threads: Annotated[int, typer.Option(help="Threads for PyTorch.")] = 2,
    case: Annotated[str, typer.Option(help="Only cases whose title holds this.")] = "",
) -> None:
    """Measure, print the tables, and write them to benchmarks/results (unless for one case)."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    rule = dg.ANDMask()
    measured: dict[str, dict[int, dict[str, Timing]]] = {}
    for domains in DOMAINS:
        for title, b in cases(domains).items():
            if case in title:
                timings = measure(ways(b, rule), rounds, f"{title}, K = {domains}", before=b.clear)
                measured.setdefault(title, {})[domains] = timings
    ratios = [
        "| case | way | " + " | ".join(f"K = {domains}" for domains in DOMAINS) + " |",
        "|---|---" + "|---" * len(DOMAINS) + "|",
    ]
    spreads = header("ERM")
    for title, by_count in measured.items():
        ratios += grid(title, by_count)
        for domains, timings in by_count.items():
            spreads += rows(f"{title}, K = {domains}", timings)
    write(
        None if case else "scaling_domains",
        "Cost of a step by the number of domains",
        f"python benchmarks/scaling_domains.py --rounds {rounds} --threads {threads}",
        [f"{NOTE} {ALTERNATION}", "\n".join(ratios), "\n".join(spreads)],
    )


if __name__ == "__main__":
    typer.run(main)
