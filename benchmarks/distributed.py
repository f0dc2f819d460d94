"""What agreement among processes costs over DDP's averaging, same model and processes.

    python benchmarks/distributed.py [--rounds 15]

Processes talk by gloo on one machine, one thread each. A way is one training step: forward,
backward with what synchronises, SGD with momentum. The ways alternate, in an order drawn anew each
round; each rank waits for the others before a way. Times are those of rank 0.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import torch.distributed as dist
import typer
from models import group_norm, resnet18
from timing import environment
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import domaingrad as dg
from domaingrad.bench.models import mlp

RESULTS = Path(__file__).parent / "results"
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, int]] = {
    "MLP 3×1024, 128 a rank": (lambda: mlp((784,), 10, (1024,) * 3), (784,), 128, 10),
    "ResNet-18, 64², 16 a rank": (lambda: resnet18(7, group_norm), (3, 64, 64), 16, 7),
}
WAYS: dict[str, Callable[[], dg.rules.Rule] | None] = {
    "DDP": None,
    "hook, AND-mask": dg.ANDMask,
    "hook, SAND-mask": dg.SANDMask,
    "hook, PCGrad": dg.PCGrad,
}
WARM_UP = 2


def steps(title: str, rank: int) -> dict[str, Callable[[], None]]:
    """A training step of each way."""
    make, shape, samples, classes = CASES[title]
    x, y = torch.randn(samples, *shape), torch.randint(classes, (samples,))
    found = {}
    for name, rule in WAYS.items():
        torch.manual_seed(0)
        model = DistributedDataParallel(make())
        if rule is not None:
            dg.DDPAgreement(model, rule(), domain=rank)
        optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)

        def step(model: nn.Module = model, optimizer: torch.optim.Optimizer = optimizer) -> None:
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()

        found[name] = step
    return found


def one_rank(rank: int, world: int, rounds: int, directory: str) -> None:
    """Measure on one rank; rank 0 writes its rows."""
    torch.set_num_threads(1)
    store = f"file://{directory}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    lines = []
    for title in CASES:
        ways = steps(title, rank)
        order, shuffled = list(ways), random.Random(0)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(WARM_UP + rounds):
            shuffled.shuffle(order)
            for name in order:
                dist.barrier()
                began = time.perf_counter()
                ways[name]()
                if number >= WARM_UP:
                    seconds[name].append(time.perf_counter() - began)
        for name, taken in seconds.items():
            ratios = [own / plain for own, plain in zip(taken, seconds["DDP"], strict=True)]
            low, _, high = statistics.quantiles(ratios, n=4)
            lines.append(
                f"| {title}, {world} ranks | {name} | {1e3 * statistics.median(taken):.0f} ms | "
                f"{statistics.median(ratios):.2f} | {low:.2f}–{high:.2f} |"
            )
    if rank == 0:
        Path(directory, "rows").write_text("\n".join(lines), encoding="utf-8")
    dist.destroy_process_group()


def main(
    rounds: Annotated[int, typer.Option(help="Rounds to take the median over.")] = 15,
) -> None:
    """Measure, print the table, and write it to benchmarks/results."""
    torch.set_num_threads(1)
    rows = []
    for world in (2, 4):
        with tempfile.TemporaryDirectory() as directory:
            torch.multiprocessing.spawn(one_rank, (world, rounds, directory), nprocs=world)
            rows.append(Path(directory, "rows").read_text(encoding="utf-8"))
    text = "\n\n".join(
        [
            "# Agreement among processes",
            f"`python benchmarks/distributed.py --rounds {rounds}`",
            environment(),
            "Steps of forward, backward and SGD with momentum by gloo processes of one thread on "
            "one machine; ratios to DDP's averaging in the same round, their median and "
            "quartiles. With four ranks on fewer cores, ranks share cores.",
            "| case | way | median | × DDP | quartiles |\n|---|---|---|---|---|\n"
            + "\n".join(rows),
        ]
    )
    typer.echo(text)
    (RESULTS / "distributed.md").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
