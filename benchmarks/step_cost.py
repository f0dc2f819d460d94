"""What a step of agreement costs, over a plain ERM step on the same samples.

    python benchmarks/step_cost.py [--rounds 12] [--threads 2] [--case NAME] [--way NAME …]

ERM is one forward and backward on the mixed batch; ``steps.py`` has the other ways. None of them
runs an optimiser. TorchJD is an optional peer:
``pip install -c constraints.txt torchjd``.
"""

from __future__ import annotations

from typing import Annotated

import torch
import typer
from models import ViT, mnist_cnn, resnet18
from steps import (
    Batch,
    batch,
    compiled_erm,
    domainbed,
    erm,
    retained_graph,
    single_pass,
    streaming,
    torchjd,
)
from timing import ALTERNATION, Way, header, measure, rows, write

import domaingrad as dg
from domaingrad.bench.models import mlp
from domaingrad.rules import Rule

NOTE = (
    "Forward, backward and rule, no optimiser. Single pass is `agree(x, domain)`, streaming "
    "`agree.domain(name)`. DomainBed's way and the retained graph are our own short versions of "
    "them. TorchJD has no AND-mask: ours takes its aggregator's place. BatchNorm is in training "
    "mode: ERM, the retained graph and TorchJD normalise over the mixed batch, the others over "
    "each domain. The compiled ways go through Inductor, and are to be held against compiled ERM."
)


def cases() -> dict[str, Batch]:
    """Models with batches, by title: model, domains × samples."""
    return {
        "ResNet-18, 64², 3 × 16": batch(resnet18(7), (3, 64, 64), 3, 48, 7),
        "ViT, 64², 3 × 16": batch(ViT(7), (3, 64, 64), 3, 48, 7),
        "MLP 3×1024, 3 × 256": batch(mlp((784,), 10, (1024,) * 3), (784,), 3, 768, 10),
        "MNIST CNN, 28², 3 × 64": batch(mnist_cnn(2), (2, 28, 28), 3, 192, 2),
        "Linear 512→7, 3 × 32": batch(mlp((512,), 7, ()), (512,), 3, 96, 7),
        "MLP 14-64-64-2, 3 × 32": batch(mlp((14,), 2, (64, 64)), (14,), 3, 96, 2),
        "MLP 3×128, 16 × 128": batch(mlp((18,), 2, (128,) * 3), (18,), 16, 2048, 2),
        "ResNet-18, 64², 20 × 3": batch(resnet18(7), (3, 64, 64), 20, 60, 7),
    }


def ways(b: Batch, rules: dict[str, Rule]) -> dict[str, Way]:
    """The step in each way."""
    return {
        "ERM": erm(b),
        "ERM, compiled": compiled_erm(b),
        **{f"single pass, {name}": single_pass(b, rule) for name, rule in rules.items()},
        **{
            f"single pass, {name}, compiled": single_pass(b, rule, compiled=True)
            for name, rule in rules.items()
        },
        "streaming, AND-mask": streaming(b, rules["AND-mask"]),
        "DomainBed's way, AND-mask": domainbed(b),
        "retained graph, AND-mask": retained_graph(b),
        "TorchJD, AND-mask": torchjd(b, "AND-mask"),
        "TorchJD (parallel_chunk_size=1), AND-mask": torchjd(b, "AND-mask", chunk=1),
        "TorchJD, PCGrad": torchjd(b, "PCGrad"),
    }


def main(
    rounds: Annotated[int, typer.Option(help="Rounds to take the median over.")] = 12,
    threads: Annotated[int, typer.Option(help="Threads for PyTorch.")] = 2,
    case: Annotated[str, typer.Option(help="Only cases whose title holds this.")] = "",
    way: Annotated[
        list[str] | None, typer.Option(help="Beside ERM, only ways of these titles.")
    ] = None,
) -> None:
    """Measure, print the table, and write it to benchmarks/results (unless for some only)."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    rules: dict[str, Rule] = {
        "AND-mask": dg.ANDMask(),
        "SAND-mask": dg.SANDMask(),
        "Agr-Rand": dg.AgrRand(),
        "PCGrad": dg.PCGrad(),
    }
    table = header("ERM")
    command = f"python benchmarks/step_cost.py --rounds {rounds} --threads {threads}"
    name = None if case or way else "step_cost"
    for title, b in cases().items():
        if case in title:
            chosen = ways(b, rules)
            if way:
                chosen = {each: chosen[each] for each in ("ERM", *way)}
            table += rows(title, measure(chosen, rounds, title, before=b.clear))
            # After each case, so that an interrupted run keeps what it has measured.
            write(name, "Cost of a step", command, [f"{NOTE} {ALTERNATION}", "\n".join(table)])


if __name__ == "__main__":
    typer.run(main)
