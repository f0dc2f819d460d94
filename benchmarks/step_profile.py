"""Where the time of an agreed step goes, beside a plain ERM step.

    python benchmarks/step_profile.py [--steps 10] [--threads 2] [--case NAME]

The cases are those of ``step_cost.py``.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from typing import Annotated

import torch
import typer
from step_cost import cases
from steps import Batch, erm, single_pass
from timing import Way, seconds_of, write
from torch.profiler import ProfilerActivity, profile

import domaingrad as dg

PARTS = {
    "products and convolutions": r"aten::(mm|addmm|bmm|baddbmm)$|conv|scaled_dot_product",
    "norms": r"norm",
    "the rule's loop, compiled": r"CompiledFxGraph",
    "entry of compiled loops": r"Torch-Compiled|TorchDynamo|AOTDispatcher|Pregraph",
    "Python in layers and rule": r"^Known|^Spread|^Rows|^Replicate",
    "other operations": r"",
}
"""By the names of the profiler's events; the first that is found."""
REST = "Python between operations"

NOTE = (
    "AND-mask, single pass, after five steps. Milliseconds a step by PyTorch's profiler (each "
    "event without those inside it), calls of operations in brackets, and what one step takes over "
    "the other; the profiler's own cost weighs on Python and on small operations. Medians without "
    "the profiler, both ways in turn, stand in the last row."
)


def parts_of(way: Way, batch: Batch, steps: int) -> tuple[Counter[str], Counter[str]]:
    """Milliseconds a step by part, and calls a step."""
    seconds = 0.0
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(steps):
            seconds += seconds_of(way, batch.clear)
    times: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for event in found.key_averages():
        part = next(title for title, names in PARTS.items() if re.search(names, event.key))
        times[part] += event.self_cpu_time_total / 1e3 / steps
        calls[part] += event.count / steps
    times[REST] = max(0.0, 1e3 * seconds / steps - sum(times.values()))
    return times, calls


def table(batch: Batch, steps: int) -> list[str]:
    """Markdown rows, a part each."""
    ways = erm(batch), single_pass(batch, dg.ANDMask())
    for way in ways * 5:
        seconds_of(way, batch.clear)
    alone: tuple[list[float], list[float]] = ([], [])
    for _ in range(2 * steps):
        for taken, way in zip(alone, ways, strict=True):
            taken.append(1e3 * seconds_of(way, batch.clear))
    (plain, plain_calls), (agreed, agreed_calls) = (parts_of(way, batch, steps) for way in ways)
    medians = [statistics.median(taken) for taken in alone]
    return [
        "| part | ERM | single pass | more |",
        "|---|---|---|---|",
        *(
            f"| {part} | {plain[part]:.1f} ({plain_calls[part]:.0f}) | {agreed[part]:.1f} "
            f"({agreed_calls[part]:.0f}) | {agreed[part] - plain[part]:+.1f} |"
            for part in (*PARTS, REST)
        ),
        f"| **a step without the profiler** | **{medians[0]:.1f}** | **{medians[1]:.1f}** "
        f"| **{medians[1] - medians[0]:+.1f}** |",
    ]


def main(
    steps: Annotated[int, typer.Option(help="Steps to profile.")] = 10,
    threads: Annotated[int, typer.Option(help="Threads for PyTorch.")] = 2,
    case: Annotated[str, typer.Option(help="Only cases whose title holds this.")] = "",
) -> None:
    """Profile, print the tables, and write them to benchmarks/results (unless for one case)."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    command = f"python benchmarks/step_profile.py --steps {steps} --threads {threads}"
    paragraphs = [NOTE]
    for title, batch in cases().items():
        if case in title:
            paragraphs += [f"## {title}", "\n".join(table(batch, steps))]
            write(None if case else "step_profile", "Where a step goes", command, paragraphs)


if __name__ == "__main__":
    typer.run(main)
