"""Timing in alternation, and the Markdown pages in benchmarks/results."""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
import typer
from rich.progress import track

RESULTS = Path(__file__).parent / "results"

PEERS = ("torchjd", "opacus", "backpack-for-pytorch")
INSTALL = "pip install -c constraints.txt torchjd opacus backpack-for-pytorch"

SLOW, VERY_SLOW = 5.0, 15.0
"""Ways that take longer than this times the reference run in every third round, or in one."""

Way = Callable[[], object]


@dataclass
class Timing:
    """Seconds of one way, and their ratios to the reference of the same round."""

    seconds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    failure: str | None = None

    @property
    def median(self) -> float:
        """Median of the seconds."""
        return statistics.median(self.seconds)

    @property
    def ratio(self) -> float:
        """Median of the ratios."""
        return statistics.median(self.ratios)

    @property
    def spread(self) -> str:
        """Quartiles of the ratios; with two or three of them, their range."""
        if len(self.ratios) < 2:
            return "once"
        low, _, high = statistics.quantiles(self.ratios, n=4, method="inclusive")
        return f"{low:.2f}–{high:.2f}"


def seconds_of(way: Way, before: Way) -> float:
    """How long a way takes, without what comes before it."""
    before()
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


def failure_of(way: Way, before: Way) -> str | None:
    """Run a way once: why it does not work, if so."""
    before()
    try:
        way()
    except ModuleNotFoundError as error:
        return f"not installed: {error.name}"
    except (RuntimeError, NotImplementedError, ValueError, TypeError, AttributeError) as error:
        while isinstance(error.args[0] if error.args else None, list):  # Opacus lists its reasons.
            error = error.args[0][0]
        message = next(iter(str(error).strip().splitlines()), "").replace("|", "/")
        return f"not supported: {type(error).__name__}: {message}"[:200]
    return None


def measure(
    ways: Mapping[str, Way],
    rounds: int,
    title: str,
    *,
    before: Way,
    seed: int = 0,
    slow: float = SLOW,
    very_slow: float = VERY_SLOW,
    progress: bool = True,
) -> dict[str, Timing]:
    """Time each way in each round, in an order drawn anew; the first way is the reference.

    Two warm-up rounds (compilation, first-step checks) are left out; the second shows who is slow.
    ``before`` runs before each call and is not timed. ``progress`` shows a bar.
    """
    timings = {name: Timing(failure=failure_of(way, before)) for name, way in ways.items()}
    names = [name for name, timing in timings.items() if timing.failure is None]
    reference = next(iter(ways))
    warm = {name: seconds_of(ways[name], before) for name in names}
    stride = {
        name: rounds
        if warm[name] > very_slow * warm[reference]
        else 3
        if warm[name] > slow * warm[reference]
        else 1
        for name in names
    }
    shuffled = random.Random(seed)
    for number in track(range(rounds), description=title, disable=not progress):
        due = [name for name in names if number % stride[name] == 0]
        shuffled.shuffle(due)
        taken = {name: seconds_of(ways[name], before) for name in due}
        for name in due:
            timings[name].seconds.append(taken[name])
            timings[name].ratios.append(taken[name] / taken[reference])
    return timings


HEADER = ["| case | way | median | × {reference} | quartiles |", "|---|---|---|---|---|"]


def header(reference: str) -> list[str]:
    """The head of a table of :func:`rows`."""
    return [line.format(reference=reference) for line in HEADER]


def rows(title: str, timings: Mapping[str, Timing]) -> list[str]:
    """Markdown rows: median time, and the round-by-round ratio to the reference."""
    return [
        f"| {title} | {name} | – | – | {timing.failure} |"
        if timing.failure is not None
        else f"| {title} | {name} | {1e3 * timing.median:.1f} ms "
        f"| {timing.ratio:.2f} | {timing.spread} |"
        for name, timing in timings.items()
    ]


ALTERNATION = (
    "All ways alternate in one process, in an order drawn anew each round (seed 0), after two "
    f"warm-up rounds. Ways slower than {SLOW:g} × the reference run in every third round, those "
    f"slower than {VERY_SLOW:g} × in one. Ratios are taken round by round: their median and "
    "quartiles."
)


def environment() -> str:
    """Versions, threads and allocator."""
    versions = [f"PyTorch {torch.__version__}", *(f"{p} {_version(p)}" for p in PEERS)]
    settings = {
        name: os.path.basename(value) if name == "LD_PRELOAD" else value
        for name, value in sorted(os.environ.items())
        if name.startswith(("MALLOC_", "LD_PRELOAD", "OMP_NUM_THREADS"))
    }
    stated = ", ".join(f"{name}={value}" for name, value in settings.items())
    return (
        f"{', '.join(versions)}; {torch.get_num_threads()} threads, {os.cpu_count()} cores; "
        f"allocator and thread settings: {stated or 'none (glibc defaults)'}."
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def write(name: str | None, title: str, command: str, paragraphs: Sequence[str]) -> None:
    """Print a page and write it to benchmarks/results, if it has a name; a table is a paragraph."""
    text = "\n\n".join([f"# {title}", f"`{command}`", environment(), *paragraphs]) + "\n"
    typer.echo(text)
    if name is not None:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")


def write_sections(
    path: Path, head: Sequence[str], sections: Mapping[str, str], order: Sequence[str]
) -> None:
    """Write a page of sections; those that were there before and are not made anew stay.

    Args:
        path: of the page.
        head: what stands above them.
        sections: texts by title.
        order: titles in their order; others stand at the end.
    """
    before = path.read_text(encoding="utf-8").split("\n## ")[1:] if path.exists() else []
    parted = (text.partition("\n") for text in before)
    known = {title: text.strip() for title, _, text in parted} | dict(sections)
    titles = [*(title for title in order if title in known), *(t for t in known if t not in order)]
    parts = [*head, *(f"## {title}\n\n{known[title]}" for title in titles)]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
