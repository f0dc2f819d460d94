"""Curves of accepted attacks against accepted or rejected live faces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from domaingrad.bench.domains import DataError
from domaingrad.bench.escaping import on_plot
from domaingrad.bench.reports.plot_files import RESOLUTION, written_to
from domaingrad.bench.reports.themes import COLOURS, Plot, themed

from .liveness import LivenessCurve
from .rates import bpcer, far
from .video_scores import Numbers

TITLE = "Live faces and attacks"
CAPTION = (
    "One curve a domain or method, over all thresholds. Filled: the threshold of the source "
    "validation. Hollow: the threshold of the target, an oracle. Left: ROC; dotted: guessing. "
    "Right: DET, on which normally distributed scores give straight lines; rates below 0.1 % are "
    "drawn at its edge."
)

LEAST = 0.001
"""The smallest rate that the DET curve has room for."""
TICKS = (0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99)


def liveness_plot(
    curves: Mapping[str, LivenessCurve], colours: Sequence[str] = COLOURS[1:]
) -> Plot:
    """ROC and DET curves by name of domain or method, with operating points, in both themes.

    Args:
        curves: by name.
        colours: of the curves, in their order.

    Raises:
        DataError: a curve without live faces or attacks.
    """
    _check(curves)
    return themed(TITLE, CAPTION, lambda: _draw(curves, colours))


def liveness_plots(
    by_domain: Mapping[str, Mapping[str, LivenessCurve]], titles: Sequence[str]
) -> list[Plot]:
    """The curves of a sweep's methods, a plot a held-out domain, from the first trial there is.

    Args:
        by_domain: by held-out domain and title of the method.
        titles: of all methods, in order, which gives them their colours.
    """
    colour_of = {title: COLOURS[index % len(COLOURS)] for index, title in enumerate(titles)}
    plots = []
    for domain, found in by_domain.items():
        curves = {title: curve for title, curve in found.items() if curve.scores.both}
        if curves:
            plot = liveness_plot(curves, [colour_of[title] for title in curves])
            title = f"{TITLE}, {domain} held out"
            plots.append(replace(plot, title=title, caption=f"First trial. {CAPTION}"))
    return plots


def plot_liveness(curves: Mapping[str, LivenessCurve], path: Path) -> None:
    """Draw the same into a file, its kind by its suffix.

    Raises:
        DataError: a curve without live faces or attacks, or a file that cannot be written.
    """
    _check(curves)
    with written_to(path) as part:
        _draw({on_plot(n): curve for n, curve in curves.items()}, COLOURS[1:]).savefig(
            part, dpi=RESOLUTION
        )


def operating_points(curve: LivenessCurve) -> dict[str, tuple[float, float]]:
    """FAR and FRR at the threshold of the source validation and at that of the target."""
    places = (curve.metrics.at_source, curve.metrics.at_target)
    return {
        place.threshold.chosen_on: (
            far(curve.scores, place.threshold.value),
            bpcer(curve.scores, place.threshold.value),
        )
        for place in places
        if place is not None
    }


def _check(curves: Mapping[str, LivenessCurve]) -> None:
    if not curves:
        raise DataError("expected at least one curve to draw, found none.")
    for name, curve in curves.items():
        if not curve.scores.both:
            raise DataError(
                f"a curve needs videos of live faces and of attacks; {name} has one of them alone. "
                f"Leave it out of the plot."
            )


def _draw(curves: Mapping[str, LivenessCurve], colours: Sequence[str]) -> Figure:
    from sklearn.metrics import roc_curve  # noqa: PLC0415 - takes seconds to import

    figure = Figure(figsize=(9, 4.4), layout="constrained")
    roc, det = figure.subplots(1, 2)
    roc.plot([0, 100], [0, 100], color=COLOURS[0], linestyle=":")
    for index, (name, curve) in enumerate(curves.items()):
        style: dict[str, Any] = {"color": colours[index % len(colours)]}
        accepted, live, _ = roc_curve(curve.scores.live, curve.scores.score)
        area = curve.metrics.auc
        label = name if area is None else f"{name} (AUC {100 * area.value:.1f} %)"
        roc.plot(100 * accepted, 100 * live, label=label, **style)
        det.plot(_probit(accepted), _probit(1 - live), **style)
        for chosen_on, (x, y) in operating_points(curve).items():
            fill = "full" if chosen_on == "source validation" else "none"
            mark: dict[str, Any] = {"marker": "o", "fillstyle": fill, "linestyle": "none", **style}
            roc.plot(100 * x, 100 * (1 - y), **mark)
            det.plot(_probit(x), _probit(y), **mark)
    roc.set_title("ROC", fontsize="small")
    roc.set_xlabel("attacks accepted, %")
    roc.set_ylabel("live faces accepted, %")
    det.set_title("DET", fontsize="small")
    det.set_xlabel("attacks accepted, %")
    det.set_ylabel("live faces rejected, %")
    names = [f"{100 * tick:g}" for tick in TICKS]
    for axis in (det.xaxis, det.yaxis):
        axis.set_ticks(_probit(TICKS), names)
    edges = _probit((LEAST, 1 - LEAST))
    margin = 0.1
    det.set(
        xlim=(edges[0] - margin, edges[1] + margin), ylim=(edges[0] - margin, edges[1] + margin)
    )
    figure.legend(loc="outside lower center", ncols=min(3, len(curves)))
    return figure


def _probit(rate: Any) -> Numbers:
    """The standard normal deviate of a rate, kept within what is drawn."""
    from scipy.special import ndtri  # noqa: PLC0415 - takes a while to import

    return np.asarray(ndtri(np.clip(rate, LEAST, 1 - LEAST)))
