"""Plots as SVG, each drawn twice: for light and for dark pages."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from .summary import DataSummary

COLOURS = ("#888888", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#B0A000")
"""Okabe and Ito's palette, told apart by colour-blind readers; grey for the first method."""

MARKERS = "osD^vPX*"

LETTERS_IN_A_ROW, LETTERS_OF_A_HANDLE = 105, 6
"""What a legend has room for, and what a line and its gap take of it."""

THEMES = {"light": "#1f2328", "dark": "#e6edf3"}
"""Colour of text and axes by theme; the ground is transparent."""


@dataclass(frozen=True)
class Plot:
    """One plot in both themes."""

    title: str
    caption: str
    light: str
    dark: str


def accuracy_plot(data: DataSummary) -> Plot:
    """Accuracy per held-out domain with error bars, beside that on the sources."""
    return _themed(
        "Accuracy per held-out domain",
        "Filled: the held-out domain, mean ± standard error over trials. Hollow: the same models "
        "on their sources' validation splits. Dotted: guessing.",
        lambda: _draw_accuracy(data),
    )


def training_plot(data: DataSummary) -> Plot:
    """Source and held-out accuracy and agreement through training."""
    return _themed(
        "Through training",
        "Means over trials by step. Agreement is the share of gradient components on whose sign "
        "all source domains agree, on fresh batches; for signs at random it would be 2^(1−K).",
        lambda: _draw_training(data),
    )


def numbers_plot(data: DataSummary) -> Plot:
    """What methods tell of themselves through training: learned ratios."""
    return _themed(
        "Told by the methods themselves",
        "Means over trials and held-out domains by step; one panel a method.",
        lambda: _draw_numbers(data),
    )


def _themed(title: str, caption: str, draw: Callable[[], Figure]) -> Plot:
    return Plot(title, caption, *(_svg(draw, ink) for ink in THEMES.values()))


def _svg(draw: Callable[[], Figure], ink: str) -> str:
    style: Any = {
        "text.color": ink,
        "axes.edgecolor": ink,
        "axes.labelcolor": ink,
        "xtick.color": ink,
        "ytick.color": ink,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#88888855",
        "grid.linewidth": 0.6,
        "axes.axisbelow": True,
        "font.size": 10,
        "legend.frameon": False,
        "svg.hashsalt": "domaingrad",
    }
    with mpl.rc_context(style):
        buffer = io.StringIO()
        draw().savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue()


def _draw_accuracy(data: DataSummary) -> Figure:
    domains = data.data_set.held_out
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    width = 0.75 / len(data.methods)
    for i, row in enumerate(data.methods):
        shift = width * (i - (len(data.methods) - 1) / 2)
        style: dict[str, Any] = {"color": _colour(i), "marker": _marker(i), "linestyle": "none"}
        for place, domain in enumerate(domains):
            held_out, sources = row.held_out[domain], row.sources_by_domain[domain]
            if held_out is None or sources is None:
                continue
            axes.plot(place + shift, 100 * sources.mean, fillstyle="none", **style)
            error = 100 * (held_out.standard_error or 0.0)
            axes.errorbar(place + shift, 100 * held_out.mean, error, capsize=3, **style)
        axes.plot([], [], label=row.method.title, **style)
    axes.axhline(100 * data.chance, color=COLOURS[0], linestyle=":")
    axes.set_xticks(range(len(domains)), domains)
    axes.set_xlim(-0.5, len(domains) - 0.5)
    axes.set_ylim(0, 103)
    axes.set_xlabel("held-out domain")
    axes.set_ylabel("accuracy, %")
    axes.grid(visible=False, axis="x")
    figure.legend(loc="outside right center")
    return figure


PANELS = (
    ("source_validation", "source validation accuracy, %"),
    ("held_out_accuracy", "held-out accuracy, %"),
    ("agreement", "agreement, % of components"),
)


def _draw_training(data: DataSummary) -> Figure:
    domains = data.data_set.held_out
    legend = 0.2 + 0.25 * math.ceil(len(data.methods) / _columns(data))
    figure = Figure(figsize=(9, legend + 0.3 + 2.3 * len(domains)), layout="constrained")
    grid = figure.subplots(len(domains), len(PANELS), sharex=True, squeeze=False)
    means = data.curves.groupby(["held_out", "method", "step"])[[name for name, _ in PANELS]].mean()
    for row, domain in zip(grid, domains, strict=True):
        for axes, (column, label) in zip(row, PANELS, strict=True):
            for i, method in enumerate(data.methods):
                if (domain, method.method.name) not in means.index.droplevel("step"):
                    continue
                curve = means.loc[(domain, method.method.name), column]
                axes.plot(
                    curve.index, 100 * curve, color=_colour(i), marker=_marker(i), markersize=3
                )
            if column == "agreement":
                axes.set_yscale("symlog", linthresh=0.1)
                axes.set_ylim(0, 100)
                axes.set_yticks([0, 0.1, 1, 10, 100], ["0", "0.1", "1", "10", "100"])
            else:
                axes.set_ylim(0, 103)
            axes.set_title(label, fontsize="small")
        row[0].set_ylabel(f"held out: {domain}")
    for axes in grid[-1]:
        axes.set_xlabel("step")
    for i, method in enumerate(data.methods):
        grid[0][0].plot([], [], color=_colour(i), marker=_marker(i), label=method.method.title)
    figure.legend(loc="outside upper center", ncols=_columns(data))
    return figure


def _columns(data: DataSummary) -> int:
    """How many titles of methods fit beside each other."""
    longest = max(len(row.method.title) for row in data.methods)
    return max(1, min(len(data.methods), LETTERS_IN_A_ROW // (longest + LETTERS_OF_A_HANDLE)))


def _draw_numbers(data: DataSummary) -> Figure:
    told = data.numbers
    methods = [row.method for row in data.methods if (told["method"] == row.method.name).any()]
    names = list(dict.fromkeys(told["name"]))
    few = len(names) <= len(COLOURS)
    figure = Figure(figsize=(9, 3.0), layout="constrained")
    grid = figure.subplots(1, len(methods), sharex=True, sharey=True, squeeze=False)
    for axes, method in zip(grid[0], methods, strict=True):
        means = told[told["method"] == method.name].groupby(["step", "name"])["value"].mean()
        curves = means.unstack("name")
        for i, name in enumerate(names):
            if name in curves:
                style = _named_style(i) if few else {"color": COLOURS[0], "linewidth": 0.5}
                axes.plot(curves.index, curves[name], **style)
        if not few:
            axes.plot(curves.index, curves.mean(axis=1), **_named_style(1))
        axes.set_title(method.title, fontsize="small")
        axes.set_xlabel("step")
    if few:
        for i, name in enumerate(names):
            grid[0][0].plot([], [], label=name, **_named_style(i))
    else:
        grid[0][0].plot([], [], label="each", color=COLOURS[0], linewidth=0.5)
        grid[0][0].plot([], [], label=f"mean of {len(names)}", **_named_style(1))
    figure.legend(loc="outside lower center", ncols=4, fontsize="small")
    return figure


def _named_style(index: int) -> dict[str, Any]:
    return {"color": _colour(index), "marker": _marker(index), "markersize": 3}


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _marker(index: int) -> str:
    # Where colours begin anew, another marker goes with each.
    return MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]
