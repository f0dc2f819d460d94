"""Where the time of an agreed step goes, beside a plain ERM step.

    python benchmarks/step_profile.py [--steps 10] [--threads 2] [--case NAME]

The cases are those of ``step_cost.py``.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from dataclasses import dataclass, field
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
    "AND-mask, single pass, after five steps, both ways in turn. Means of milliseconds a step by "
    "PyTorch's profiler (each event without those inside it), calls of operations in brackets, and "
    "what one step takes over the other; the profiler's own cost weighs on Python and on small "
    "operations. Medians without the profiler, also in turn, stand in the last row."
)


@dataclass
class Parts:
    """Milliseconds and calls by part, of all steps together."""

    times: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)

    def add(self, way: Way, batch: Batch) -> None:
        """Profile one more step."""
        with profile(activities=[ProfilerActivity.CPU]) as found:
            seconds = seconds_of(way, batch.clear)
        self.times[REST] += 1e3 * seconds
        for event in found.key_averages():
            part = next(title for title, names in PARTS.items() if re.search(names, event.key))
            self.times[part] += event.self_cpu_time_total / 1e3
            self.times[REST] -= event.self_cpu_time_total / 1e3
            self.calls[part] += event.count


def table(batch: Batch, steps: int) -> list[str]:
    """Markdown rows, a part each."""
    ways = erm(batch), single_pass(batch, dg.ANDMask())
    for way in ways * 5:
        seconds_of(way, batch.clear)
    alone: tuple[list[float], list[float]] = ([], [])
    for _ in range(2 * steps):
        for taken, way in zip(alone, ways, strict=True):
            taken.append(1e3 * seconds_of(way, batch.clear))
    plain, agreed = Parts(), Parts()
    for _ in range(steps):
        for parts, way in zip((plain, agreed), ways, strict=True):
            parts.add(way, batch)
    medians = [statistics.median(taken) for taken in alone]
    return [
        "| part | ERM | single pass | more |",
        "|---|---|---|---|",
        *(
            f"| {part} | {_shown(plain, part, steps)} | {_shown(agreed, part, steps)} "
            f"| {(agreed.times[part] - plain.times[part]) / steps:+.1f} |"
            for part in (*PARTS, REST)
        ),
        f"| **a step without the profiler** | **{medians[0]:.1f}** | **{medians[1]:.1f}** "
        f"| **{medians[1] - medians[0]:+.1f}** |",
    ]


def _shown(parts: Parts, part: str, steps: int) -> str:
    return f"{parts.times[part] / steps:.1f} ({parts.calls[part] / steps:.0f})"


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
