"""Colours, and plots as SVG, each drawn twice: for light and for dark pages."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

COLOURS = ("#888888", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#B0A000")
"""Okabe and Ito's palette, told apart by colour-blind readers; grey for the first method."""

LIGHT_INK, DARK_INK = "#1f2328", "#e6edf3"
"""Colour of text and axes on light and on dark pages; the ground is transparent."""


@dataclass(frozen=True)
class Plot:
    """One plot in both themes."""

    title: str
    caption: str
    light: str
    dark: str


def themed(title: str, caption: str, draw: Callable[[], Figure]) -> Plot:
    """A plot in both themes; ``draw`` is called with the style of light pages."""
    light = _svg(draw)
    return Plot(title, caption, light, light.replace(LIGHT_INK, DARK_INK))


def _svg(draw: Callable[[], Figure]) -> str:
    style: Any = {
        "text.color": LIGHT_INK,
        "axes.edgecolor": LIGHT_INK,
        "axes.labelcolor": LIGHT_INK,
        "xtick.color": LIGHT_INK,
        "ytick.color": LIGHT_INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#88888855",
        "grid.linewidth": 0.6,
        "axes.axisbelow": True,
        "font.size": 10,
        "legend.frameon": False,
        "svg.hashsalt": "domaingrad",
        "text.parse_math": False,
    }
    with mpl.rc_context(style):
        buffer = io.StringIO()
        draw().savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue()
