"""Confusion matrices of an evaluation, as one picture."""

from __future__ import annotations

from pathlib import Path

from domaingrad.bench.use import Evaluation

from .plot_files import RESOLUTION, written_to

NUMBERS_UP_TO = 12
"""Classes up to which the cells carry their numbers."""


def plot_confusion(evaluation: Evaluation, path: Path) -> None:
    """Draw one matrix a domain, rows normalised to 100 %.

    Args:
        evaluation: of a classifier.
        path: of the picture, its kind by its suffix.

    Raises:
        DataError: it cannot be written there.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - takes a second to import

    drawn = [domain for domain in evaluation.domains if domain.confusion is not None]
    classes = evaluation.trained.classes
    side = max(3.2, 0.45 * len(classes) + 1.6)
    figure = Figure(figsize=(side * len(drawn), side + 0.5), layout="constrained")
    for axes, domain in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn, strict=True):
        assert domain.confusion is not None
        counts = domain.confusion.double()
        share = (100 * counts / counts.sum(1, keepdim=True).clamp(min=1)).numpy()
        axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
        accuracy = 100 * domain.metrics["accuracy"]
        axes.set_title(f"{domain.domain} ({domain.role})\naccuracy {accuracy:.1f} %", fontsize=10)
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
    figure.suptitle("Share of each true class that is predicted as each class, in %", fontsize=11)
    with written_to(path):
        figure.savefig(path, dpi=RESOLUTION)
