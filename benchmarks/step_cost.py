"""What a step of agreement costs, over a plain ERM step on the same samples.

    python benchmarks/step_cost.py [--rounds 15] [--threads 2]

ERM: one forward and backward on the mixed batch. Streaming: one of each per domain, folded into
running statistics, then the rule. Mixed batch: the same by ``agree(x, domain)`` and
``agree.backward(losses)``. Stacked: one forward and ``autograd.grad`` per domain, all K gradients
kept and stacked, the rule in plain PyTorch, as in DomainBed's AND-mask. Retained graph: a joint
forward, one backward per domain with the graph kept, stacked likewise. All of them alternate in one
process, none runs an optimiser; medians over the rounds.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from resnet import resnet18
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F

import domaingrad as dg
from domaingrad.bench.models import mlp

RESULTS = Path(__file__).parent / "results" / "step_cost.md"


def naive_and_mask(gradients: Sequence[Tensor]) -> Tensor:
    """AND-mask with rescale on stacked gradients, in the plainest PyTorch."""
    stacked = torch.stack(list(gradients))
    mask = (stacked.sign().mean(0).abs() >= 1.0).to(stacked.dtype)
    return mask * stacked.mean(0) / (1e-10 + mask.mean())


def ways(model: nn.Module, x: Tensor, y: Tensor, domains: int) -> dict[str, Callable[[], None]]:
    """The step in each way; ``x`` and ``y`` hold the domains one after the other."""
    agree = dg.GradientAgreement(model, dg.ANDMask())
    sand = dg.GradientAgreement(model, dg.SANDMask())
    parameters = list(model.parameters())
    domain = torch.arange(domains).repeat_interleave(len(y) // domains)
    parts = list(zip(x.chunk(domains), y.chunk(domains), strict=True))

    def erm() -> None:
        F.cross_entropy(model(x), y).backward()

    def streaming(agree: dg.GradientAgreement) -> None:
        for name, (inputs, labels) in enumerate(parts):
            with agree.domain(name):
                F.cross_entropy(model(inputs), labels).backward()
        agree.combine()

    def mixed_batch() -> None:
        agree.backward(F.cross_entropy(agree(x, domain), y, reduction="none"))

    def mask(gradients: Sequence[tuple[Tensor, ...]]) -> None:
        for parameter, own in zip(parameters, zip(*gradients, strict=True), strict=True):
            parameter.grad = naive_and_mask(own)

    def stacked() -> None:
        mask(
            [
                torch.autograd.grad(F.cross_entropy(model(inputs), labels), parameters)
                for inputs, labels in parts
            ]
        )

    def retained_graph() -> None:
        losses = F.cross_entropy(model(x), y, reduction="none").chunk(domains)
        mask([torch.autograd.grad(loss.mean(), parameters, retain_graph=True) for loss in losses])

    return {
        "ERM": erm,
        "streaming, AND-mask": lambda: streaming(agree),
        "streaming, SAND-mask": lambda: streaming(sand),
        "mixed batch, AND-mask": mixed_batch,
        "stacked, AND-mask (as DomainBed)": stacked,
        "retained graph, AND-mask": retained_graph,
    }


def measure(
    model: nn.Module, steps: dict[str, Callable[[], None]], rounds: int, title: str
) -> dict[str, list[float]]:
    """Seconds of each way by round; two rounds of warm-up are left out."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for counted in track([False] * 2 + [True] * rounds, description=title):
        for name, step in steps.items():
            model.zero_grad()
            start = time.perf_counter()
            step()
            if counted:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def rows(title: str, seconds: dict[str, list[float]]) -> list[str]:
    """Markdown rows: median time and the round-by-round ratio to ERM, with its quartiles."""
    lines = []
    for name, times in seconds.items():
        ratios = [t / erm for t, erm in zip(times, seconds["ERM"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        lines.append(
            f"| {title} | {name} | {1e3 * statistics.median(times):.1f} ms "
            f"| {middle:.2f} | {low:.2f}–{high:.2f} |"
        )
    return lines


def main(
    rounds: Annotated[int, typer.Option(help="Rounds to take the median over.")] = 15,
    threads: Annotated[int, typer.Option(help="Threads for PyTorch.")] = 2,
) -> None:
    """Measure, print the table, and write it to benchmarks/results."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    cases = {
        "ResNet-18, 64², 3 × 16": (resnet18(7), (3, 64, 64), 3, 16, 7),
        "ResNet-18, 64², 20 × 3": (resnet18(7), (3, 64, 64), 20, 3, 7),
        "MLP 3×1024, 3 × 256": (mlp((784,), 10, (1024,) * 3), (784,), 3, 256, 10),
        "MLP 3×128, 16 × 128": (mlp((18,), 2, (128,) * 3), (18,), 16, 128, 2),
    }
    table = [
        "| model, domains × samples | way | median | × ERM | quartiles |",
        "|---|---|---|---|---|",
    ]
    for title, (model, shape, domains, samples, classes) in cases.items():
        x = torch.randn(domains * samples, *shape)
        y = torch.randint(classes, (domains * samples,))
        table += rows(title, measure(model, ways(model, x, y, domains), rounds, title))
    allocator = {k: v for k, v in os.environ.items() if k.startswith(("MALLOC_", "LD_PRELOAD"))}
    text = "\n".join(
        [
            "# Cost of a step",
            "",
            f"`python benchmarks/step_cost.py --rounds {rounds} --threads {threads}`: forward, "
            "backward and rule, no optimiser; alternating in one process; × ERM is the median of "
            "the round-by-round ratios.",
            "",
            f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads, {os.cpu_count()} "
            f"cores; allocator settings: {allocator or 'none (glibc defaults)'}.",
            "",
            *table,
            "",
        ]
    )
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(text, encoding="utf-8")
    typer.echo(text)


if __name__ == "__main__":
    typer.run(main)
