"""Peak memory of a step, each way in a process of its own (Linux).

    python benchmarks/memory.py [--rounds 2] [--threads 2] [--case NAME]

Peak resident memory minus what is resident once the model and its samples exist, so with the new
``.grad``. Before that, a small other model makes one step the same way, so that libraries, threads
and compiled kernels are there and not counted. The first step (which the single pass examines) and
the largest of three later ones are reported apart. ``MALLOC_TRIM_THRESHOLD_`` and
``MALLOC_MMAP_THRESHOLD_`` are set to 65536 in these processes, so that freed memory goes back and
resident memory follows live tensors. ``pip install -c constraints.txt torchjd`` for the peer.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer
from models import resnet18
from rich.progress import track
from steps import Batch, batch, domainbed, erm, retained_graph, single_pass, streaming, torchjd
from timing import Way, write
from torch import nn

import domaingrad as dg
from domaingrad.bench.models import mlp

MIB = 2**20
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_MMAP_THRESHOLD_": "65536"}

RULE = dg.ANDMask()

CASES: dict[str, Callable[[], Batch]] = {
    "ResNet-18, 64², 3 × 16": lambda: batch(resnet18(7), (3, 64, 64), 3, 48, 7),
    "ResNet-18, 64², 10 × 5": lambda: batch(resnet18(7), (3, 64, 64), 10, 50, 7),
    "MLP 3×1024, 3 × 256": lambda: batch(mlp((784,), 10, (1024,) * 3), (784,), 3, 768, 10),
}
WAYS: dict[str, Callable[[Batch], Way]] = {
    "ERM": erm,
    "single pass": lambda b: single_pass(b, RULE),
    "streaming": lambda b: streaming(b, RULE),
    "DomainBed's way": domainbed,
    "retained graph": retained_graph,
    "TorchJD": lambda b: torchjd(b, "AND-mask"),
}

NOTE = (
    "AND-mask; forward, backward and rule, no optimiser. Peak resident memory over what is there "
    "with the model and its samples alone; each way in fresh processes, medians of them, with "
    f"{', '.join(f'{name}={value}' for name, value in ALLOCATOR.items())}. A later step is the "
    "largest of three; × ERM and − ERM are for later steps. The first step of the single pass is "
    "examined against separate passes. ERM + K × largest: what ERM takes, and K gradients of the "
    "largest layer; the single pass is meant to stay within 1.1 times that."
)


class Peaks(NamedTuple):
    """Peak MiB in the first step and in later ones."""

    first: float
    later: float


def resident(field: str) -> float:
    """MiB of a field of /proc/self/status: VmRSS now, VmHWM at its peak."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status holds no {field}; this benchmark needs Linux.")


def peak_of(way: Way) -> float:
    """MiB at the peak of a call."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    way()
    return resident("VmHWM")


def settle() -> None:
    """Give freed memory back to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def measure_here(case: str, way: str) -> Peaks:
    """The peaks of one way in this process."""
    b = CASES[case]()
    small = nn.Sequential(nn.Linear(600, 600), nn.ReLU(), nn.Linear(600, 2))
    WAYS[way](batch(small, (600,), b.domains, 4 * b.domains, 2))()
    del small
    settle()
    base = resident("VmRSS")
    step = WAYS[way](b)
    first = peak_of(step)
    later = []
    for _ in range(3):
        b.clear()
        settle()
        later.append(peak_of(step))
    return Peaks(first - base, max(later) - base)


def measure_apart(case: str, way: str, threads: int) -> Peaks | str:
    """The same in a fresh process; its last words if it fails."""
    command = [sys.executable, __file__, "--threads", str(threads), "--here", case, way]
    done = subprocess.run(
        command, env={**os.environ, **ALLOCATOR}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        return (done.stderr.strip() or "no message").splitlines()[-1].replace("|", "/")[:200]
    return Peaks(*json.loads(done.stdout.splitlines()[-1]))


def rows(case: str, peaks: dict[str, Peaks | str]) -> list[str]:
    """Markdown rows of one case."""
    b = CASES[case]()
    sizes = [4 * parameter.numel() / MIB for parameter in b.model.parameters()]
    erm_peak = peaks["ERM"]
    if isinstance(erm_peak, str):
        raise RuntimeError(f"the ERM step failed: {erm_peak}")
    lines = []
    for way, found in peaks.items():
        if isinstance(found, str):
            lines.append(f"| {case} | {way} | – | – | – | failed: {found} |")
            continue
        lines.append(
            f"| {case} | {way} | {found.first:.0f} MiB | {found.later:.0f} MiB "
            f"| {found.later / erm_peak.later:.2f} | {found.later - erm_peak.later:+.0f} MiB |"
        )
    bound = erm_peak.later + b.domains * max(sizes)
    lines.append(
        f"| {case} | *ERM + K × largest* ({b.domains} × {max(sizes):.1f} MiB; all parameters "
        f"{sum(sizes):.1f} MiB) | – | {bound:.0f} MiB | {bound / erm_peak.later:.2f} "
        f"| {bound - erm_peak.later:+.0f} MiB |"
    )
    return lines


def main(
    rounds: Annotated[int, typer.Option(help="Processes for each way.")] = 2,
    threads: Annotated[int, typer.Option(help="Threads for PyTorch.")] = 2,
    case: Annotated[str, typer.Option(help="Only cases whose title holds this.")] = "",
    here: Annotated[tuple[str, str] | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure, print the table, and write it to benchmarks/results (unless for one case)."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if here is not None:
        typer.echo(json.dumps(measure_here(*here)))
        return
    table = [
        "| case | way | first step | later step | × ERM | − ERM |",
        "|---|---|---|---|---|---|",
    ]
    for title in (title for title in CASES if case in title):
        peaks: dict[str, Peaks | str] = {}
        for way in track(WAYS, description=title):
            found = [measure_apart(title, way, threads) for _ in range(rounds)]
            failed = [message for message in found if isinstance(message, str)]
            peaks[way] = (
                failed[0] if failed else Peaks(*map(statistics.median, zip(*found, strict=True)))
            )
        table += rows(title, peaks)
    write(
        None if case else "memory",
        "Peak memory of a step",
        f"python benchmarks/memory.py --rounds {rounds} --threads {threads}",
        [NOTE, "\n".join(table)],
    )


if __name__ == "__main__":
    typer.run(main)
