"""Conflict as pictures; needs matplotlib, of the extra ``bench``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .conflict import Conflict, ConflictWatch

BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#888888"
"""Of Okabe and Ito's palette, told apart by colour-blind readers."""
NUMBERS_UP_TO = 12
"""Domains up to which the cells carry their numbers."""
INCHES_A_LAYER = 0.28


def plot_conflict(
    found: Conflict,
    path: str | Path,
    domains: Sequence[str] | None = None,
    gsnr: Mapping[str, float] | None = None,
) -> None:
    """Draw the cosines between the domains, and mean cosine and sign agreement layer by layer.

    Args:
        found: what :func:`~domaingrad.inspect.conflict` found.
        path: of the picture, its kind by its suffix (.png, .svg, .pdf).
        domains: names of the domains, in the order of ``found.domains``.
        gsnr: gradient signal-to-noise ratio by layer, as one panel more.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: another number of names than of domains; a suffix that is no picture's.
    """
    names = [str(label) for label in (domains or found.domains)]
    if len(names) != len(found.domains):
        raise ValueError(f"expected {len(found.domains)} names of domains; found {len(names)}.")
    layers = list(found.layers)
    panels = 3 + (gsnr is not None)
    height = max(3.2, 1.4 + INCHES_A_LAYER * len(layers))
    figure = _figure((3.4 + 2.6 * panels, height))
    axes = figure.subplots(1, panels, width_ratios=[1.6, *[1] * (panels - 1)])
    _draw_cosines(figure, axes[0], found, names)
    values = {
        "mean cosine": [found.layers[name].mean_cosine for name in layers],
        "sign agreement, %": [100 * found.layers[name].agreement for name in layers],
    }
    if gsnr is not None:
        values["GSNR over samples"] = [gsnr.get(name, float("nan")) for name in layers]
    whole = {"mean cosine": found.mean_cosine, "sign agreement, %": 100 * found.agreement}
    places = range(len(layers))
    for panel, (title, row) in zip(axes[1:], values.items(), strict=True):
        panel.barh(places, row, color=BLUE, height=0.7)
        panel.set_yticks(places, layers if panel is axes[1] else [])
        panel.invert_yaxis()
        panel.set_title(title, fontsize=10)
        if title in whole:
            panel.axvline(whole[title], color=ORANGE, label="whole model")
        panel.axvline(0, color=GREY, linewidth=0.8)
    axes[1].legend(loc="lower left", bbox_to_anchor=(0, 1.06), fontsize=8, frameon=False)
    figure.savefig(path, dpi=120)


def plot_watch(watch: ConflictWatch, path: str | Path) -> None:
    """Draw mean cosine and sign agreement through training, of the model and of each layer.

    Args:
        watch: after at least one look.
        path: of the picture, its kind by its suffix (.png, .svg, .pdf).

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: nothing was looked at yet; a suffix that is no picture's.
    """
    if not watch.found:
        raise ValueError("nothing to draw: the watch has seen no batch yet.")
    batches = list(watch.found)
    looks = list(watch.found.values())
    layers = list(looks[0].layers)
    height = 3.0 + max(2.0, INCHES_A_LAYER * len(layers))
    figure = _figure((10, height))
    grid = figure.subplots(2, 2, height_ratios=[2.6, height - 3.0])
    kinds: tuple[tuple[str, Any, float, float], ...] = (
        ("mean cosine", lambda of: of.mean_cosine, -1, 1),
        ("sign agreement, %", lambda of: 100 * of.agreement, 0, 100),
    )
    for column, (title, value, low, high) in enumerate(kinds):
        top, below = grid[0][column], grid[1][column]
        top.plot(batches, [value(look) for look in looks], color=BLUE, marker="o", markersize=3)
        top.set_title(f"{title}, whole model", fontsize=10)
        top.axhline(0, color=GREY, linewidth=0.8)
        rows = [[value(look.layers[name]) for look in looks] for name in layers]
        colours = "RdBu" if low < 0 else "Blues"
        # Signs agree in few components where there are many domains: as far as there is anything.
        most = high if low < 0 else max(1e-3, *map(max, rows))
        shown = below.imshow(
            rows, aspect="auto", cmap=colours, vmin=low, vmax=most, interpolation="nearest"
        )
        below.set_yticks(range(len(layers)), layers if column == 0 else [])
        ticks = sorted({0, len(batches) // 2, len(batches) - 1})
        below.set_xticks(ticks, [str(batches[tick]) for tick in ticks])
        below.set_title(f"{title}, layer by layer", fontsize=10)
        below.set_xlabel("batch")
        figure.colorbar(shown, ax=below)
    figure.savefig(path, dpi=120)


def _draw_cosines(figure: Any, axes: Any, found: Conflict, names: Sequence[str]) -> None:
    cosines = found.cosines.tolist()
    shown = axes.imshow(cosines, cmap="RdBu", vmin=-1, vmax=1)
    places = range(len(names))
    axes.set_xticks(places, names, rotation=45, ha="right")
    axes.set_yticks(places, names)
    axes.set_title("cosine between domains", fontsize=10)
    if len(names) <= NUMBERS_UP_TO:
        for row, values in enumerate(cosines):
            for column, value in enumerate(values):
                ink = "white" if abs(value) > 0.6 else "black"
                axes.text(
                    column, row, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=8
                )
    figure.colorbar(shown, ax=axes, shrink=0.7)


def _figure(size: tuple[float, float]) -> Any:
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - the core does without it
    except ImportError as error:
        raise ImportError(
            "plots need matplotlib; install it, or domaingrad with the extra bench."
        ) from error
    return Figure(figsize=size, layout="constrained")
