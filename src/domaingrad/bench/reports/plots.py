"""Plots as SVG, each drawn twice: for light and for dark pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from domaingrad.bench.escaping import on_plot
from domaingrad.bench.metrics import scoring
from domaingrad.bench.protocol import SELECTIONS

from .summary import Cell, DataSummary
from .themes import COLOURS, Plot, themed

MARKERS = "osD^vPX*"

LETTERS_IN_A_ROW, LETTERS_OF_A_HANDLE = 105, 6
"""What a legend has room for, and what a line and its gap take of it."""

LETTERS_OF_TICKS = 100
"""Letters of names below an axis, all as long as the longest, that lie beside each other."""
DRAWS_IN_A_ROW = 3
SHOWN = 24
"""Held-out domains for which a plot has room; the tables have all."""


def plots_of(data: DataSummary) -> list[Plot]:
    """What there is to draw of a data set, by what it was asked for and what its methods tell."""
    if data.curves.empty:
        return []
    drawn = (
        (
            "Score per held-out domain",
            "Filled: the held-out domain, mean ± standard error over trials. Hollow: the same "
            "models on their sources' validation splits. Dotted: guessing, where labels are "
            "classes.",
            True,
            _draw_accuracy,
        ),
        (
            "By selection method",
            "Mean over held-out domains ± standard error over trials. An oracle selects by the "
            "held-out domain itself: no estimate for a new domain.",
            len(data.tables) > 1,
            _draw_selections,
        ),
        (
            "Through training",
            "Means over trials by step. Agreement is the share of gradient components on whose "
            "sign all source domains agree, on fresh batches; for signs at random it would be "
            "2^(1−K). Dashed: references, which are fit once.",
            True,
            _draw_training,
        ),
        (
            "Hyper-parameters",
            "One mark a run of a draw, trial and held-out domain, at its best source validation. "
            "Hollow: source validation. Filled: the held-out domain.",
            searched(data),
            _draw_draws,
        ),
        (
            "Told by the methods themselves",
            "Means over trials and held-out domains by step; one panel a method.",
            not data.numbers.empty,
            _draw_numbers,
        ),
    )
    own = [themed(title, said, partial(of, data)) for title, said, there, of in drawn if there]
    return own + [plot for section in data.sections.values() for plot in section.plots()]


def _draw_accuracy(data: DataSummary) -> Figure:
    domains = data.data.held_out[:SHOWN]
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
            axes.plot(place + shift, _scale(data) * sources.mean, fillstyle="none", **style)
            _mark(axes, place + shift, held_out, data, style)
        axes.plot([], [], label=row.method.info.title, **style)
    _finish(figure, axes, data, [on_plot(domain) for domain in domains])
    axes.set_xlabel("held-out domain")
    return figure


def _draw_selections(data: DataSummary) -> Figure:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    width = 0.75 / len(data.methods)
    for i, row in enumerate(data.methods):
        shift = width * (i - (len(data.methods) - 1) / 2)
        style: dict[str, Any] = {"color": _colour(i), "marker": _marker(i), "linestyle": "none"}
        for place, rows in enumerate(data.tables.values()):
            if (average := rows[i].average) is not None:
                _mark(axes, place + shift, average, data, style)
        axes.plot([], [], label=row.method.info.title, **style)
    _finish(figure, axes, data, [SELECTIONS[name].title for name in data.tables])
    axes.set_xlabel("selection method")
    return figure


def _mark(axes: Any, place: float, cell: Cell, data: DataSummary, style: dict[str, Any]) -> None:
    error = _scale(data) * (cell.standard_error or 0.0)
    axes.errorbar(place, _scale(data) * cell.mean, error, capsize=3, **style)


def _finish(figure: Figure, axes: Any, data: DataSummary, places: Sequence[str]) -> None:
    crowded = max(map(len, places)) * len(places) > LETTERS_OF_TICKS
    turned = {"rotation": 40, "ha": "right"} if crowded else {}
    axes.set_xticks(range(len(places)), places, **turned)
    axes.set_xlim(-0.5, len(places) - 0.5)
    _limit(axes, data)
    low, high = axes.get_ylim()
    if data.chance is not None and low <= 100 * data.chance <= high:
        axes.axhline(100 * data.chance, color=COLOURS[0], linestyle=":")
    axes.set_ylabel(_unit(data))
    axes.grid(visible=False, axis="x")
    figure.legend(loc="outside right center")


def _scale(data: DataSummary) -> float:
    """Accuracies are shown in percent, R² as it is."""
    return 1.0 if data.data.task == "regression" else 100.0


def _unit(data: DataSummary) -> str:
    metric = scoring(data.data.task, data.data.metric)
    return f"{metric.title}, %" if metric.percent else metric.title


def _limit(axes: Any, data: DataSummary) -> None:
    """Fit the axis to what is drawn; of R² what lies below −1 is left out."""
    low, high = axes.get_ylim()
    least, most = (-1.05, 1.05) if data.data.task == "regression" else (-1.0, 103.0)
    axes.set_ylim(max(low, least), max(min(high, most), max(low, least) + 0.01 * (most - least)))


def _draw_draws(data: DataSummary) -> Figure:
    names = searched(data)
    rows = math.ceil(len(names) / DRAWS_IN_A_ROW)
    figure = Figure(figsize=(9, 0.4 + 2.6 * rows), layout="constrained")
    grid = figure.subplots(rows, min(len(names), DRAWS_IN_A_ROW), sharey=True, squeeze=False)
    grid = grid.ravel()
    for axes in grid[len(names) :]:
        axes.set_visible(False)
    for axes, name in zip(grid, names, strict=False):
        own = data.draws[data.draws["name"] == name]
        for i, method in enumerate(data.methods):
            points = own[own["method"] == method.method.info.name]
            style: dict[str, Any] = {
                "color": _colour(i), "marker": _marker(i), "linestyle": "none", "markersize": 4,
            }  # fmt: skip
            for column, fill in (("source_validation", "none"), ("held_out_score", "full")):
                axes.plot(points["value"], _scale(data) * points[column], fillstyle=fill, **style)
        if own["value"].min() > 0 and own["value"].max() > 5 * own["value"].min():
            axes.set_xscale("log")
            # Without mathematics, which the style does not set.
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter("")
        else:
            axes.locator_params(axis="x", nbins=4)
        axes.set_xlabel(name)
        _limit(axes, data)
    for i, row in enumerate(data.methods):
        figure.axes[0].plot(
            [],
            [],
            color=_colour(i),
            marker=_marker(i),
            linestyle="none",
            label=row.method.info.title,
        )
    figure.axes[0].set_ylabel(_unit(data))
    figure.legend(loc="outside upper center", ncols=_columns(data))
    return figure


def searched(data: DataSummary) -> list[str]:
    """Hyper-parameters that have more than one value."""
    values = data.draws.groupby("name", sort=False)["value"].nunique()
    return [str(name) for name in values[values > 1].index]


PANELS = (
    ("source_validation", "source validation"),
    ("held_out_score", "held out"),
    ("agreement", "agreement, % of components"),
)


def _draw_training(data: DataSummary) -> Figure:
    domains = data.data.held_out[:SHOWN]
    legend = 0.2 + 0.25 * math.ceil(len(data.methods) / _columns(data))
    figure = Figure(figsize=(9, legend + 0.3 + 2.3 * len(domains)), layout="constrained")
    grid = figure.subplots(len(domains), len(PANELS), sharex=True, squeeze=False)
    means = data.curves.groupby(["held_out", "method", "step"])[[name for name, _ in PANELS]].mean()
    for row, domain in zip(grid, domains, strict=True):
        for axes, (column, label) in zip(row, PANELS, strict=True):
            for i, method in enumerate(data.methods):
                if (domain, method.method.info.name) not in means.index.droplevel("step"):
                    continue
                curve = means.loc[(domain, method.method.info.name), column]
                scale = 100 if column == "agreement" else _scale(data)
                if len(curve) == 1:  # a reference, which has no steps
                    axes.axhline(scale * curve.iloc[0], color=_colour(i), linestyle="--")
                    continue
                axes.plot(
                    curve.index, scale * curve, color=_colour(i), marker=_marker(i), markersize=3
                )
            if column == "agreement":
                axes.set_yscale("symlog", linthresh=0.1)
                axes.set_ylim(0, 100)
                axes.set_yticks([0, 0.1, 1, 10, 100], ["0", "0.1", "1", "10", "100"])
            else:
                _limit(axes, data)
                label = f"{label}, {_unit(data)}"  # noqa: PLW2901
            axes.set_title(label, fontsize="small")
        row[0].set_ylabel(on_plot(f"held out: {domain}"))
        ends = [end for axes in row[:2] for end in axes.get_ylim()]
        for axes in row[:2]:
            axes.set_ylim(min(ends), max(ends))
    for axes in grid[-1]:
        axes.set_xlabel("step")
    for i, method in enumerate(data.methods):
        grid[0][0].plot([], [], color=_colour(i), marker=_marker(i), label=method.method.info.title)
    figure.legend(loc="outside upper center", ncols=_columns(data))
    return figure


def _columns(data: DataSummary) -> int:
    """How many titles of methods fit beside each other."""
    longest = max(len(row.method.info.title) for row in data.methods)
    return max(1, min(len(data.methods), LETTERS_IN_A_ROW // (longest + LETTERS_OF_A_HANDLE)))


def _draw_numbers(data: DataSummary) -> Figure:
    told = data.numbers
    methods = [row.method for row in data.methods if (told["method"] == row.method.info.name).any()]
    names = list(dict.fromkeys(told["name"]))
    few = len(names) <= len(COLOURS)
    figure = Figure(figsize=(9, 3.0), layout="constrained")
    grid = figure.subplots(1, len(methods), sharex=True, sharey=True, squeeze=False)
    for axes, method in zip(grid[0], methods, strict=True):
        means = told[told["method"] == method.info.name].groupby(["step", "name"])["value"].mean()
        curves = means.unstack("name")
        for i, name in enumerate(names):
            if name in curves:
                style = _named_style(i) if few else {"color": COLOURS[0], "linewidth": 0.5}
                axes.plot(curves.index, curves[name], **style)
        if not few:
            axes.plot(curves.index, curves.mean(axis=1), **_named_style(1))
        axes.set_title(method.info.title, fontsize="small")
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
