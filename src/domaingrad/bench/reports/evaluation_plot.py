"""Confusion matrices of an evaluation, as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from domaingrad.bench.domains import DataError
from domaingrad.bench.escaping import on_plot
from domaingrad.bench.use import Evaluation

from .plot_files import RESOLUTION, written_to

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUMBERS_UP_TO, NAMES_UP_TO, CLASSES_UP_TO = 12, 60, 400
"""Classes up to which the cells carry their numbers, the axes the classes' names, and there is a
picture."""
LARGEST_SIDE = 9.0
"""Inches of a matrix."""
IN_ROW, DOMAINS_UP_TO = 4, 12
"""Matrices beside each other, and in all."""


def plot_confusion(evaluation: Evaluation, path: Path) -> None:
    """Draw one matrix a domain, rows normalised to 100 %.

    Args:
        evaluation: of a classifier.
        path: of the picture, its kind by its suffix.

    Raises:
        DataError: it cannot be written there, or there are too many classes.
    """
    if len(evaluation.trained.classes) > CLASSES_UP_TO:
        raise DataError(
            f"{len(evaluation.trained.classes):,} classes are too many for a picture, which has "
            f"room for {CLASSES_UP_TO}; the JSON has all counts."
        )
    with written_to(path) as part:
        _draw(evaluation).savefig(part, dpi=RESOLUTION)


def _draw(evaluation: Evaluation) -> Figure:
    from matplotlib.figure import Figure  # noqa: PLC0415 - takes a second to import

    every = [domain for domain in evaluation.domains if domain.pairs is not None]
    drawn = every[:DOMAINS_UP_TO]
    classes = [on_plot(name) for name in evaluation.trained.classes]
    side = min(LARGEST_SIDE, max(3.2, 0.45 * len(classes) + 1.6))
    columns = min(IN_ROW, len(drawn))
    rows = -(-len(drawn) // columns)
    figure = Figure(figsize=(side * columns, (side + 0.5) * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in grid[len(drawn) :]:
        axes.remove()
    for axes, domain in zip(grid, drawn, strict=False):
        assert domain.confusion is not None
        counts = domain.confusion.double()
        share = (100 * counts / counts.sum(1, keepdim=True).clamp(min=1)).numpy()
        axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
        accuracy = 100 * domain.metrics["accuracy"]
        title = f"{on_plot(domain.domain)} ({domain.role})\naccuracy {accuracy:.1f} %"
        axes.set_title(title, fontsize=10)
        if len(classes) <= NAMES_UP_TO:
            axes.set_xticks(range(len(classes)), classes, rotation=60, ha="right", fontsize=8)
            axes.set_yticks(range(len(classes)), classes, fontsize=8)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        if len(classes) <= NUMBERS_UP_TO:
            for row, values in enumerate(share):
                for column, value in enumerate(values):
                    shade = "white" if value > 55 else "black"
                    axes.text(
                        column, row, f"{value:.0f}", ha="center", va="center", color=shade,
                        fontsize=7,
                    )  # fmt: skip
    title = "Share of each true class that is predicted as each class, in %"
    if len(drawn) < len(every):
        title += f"; the first {len(drawn)} of {len(every)} domains"
    figure.suptitle(title, fontsize=11)
    return figure
