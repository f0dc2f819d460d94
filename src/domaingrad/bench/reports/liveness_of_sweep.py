"""How well live faces are told from attacks, by method and held-out domain of a sweep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from domaingrad.bench.methods import Method
from domaingrad.bench.protocol.video_scores import joined
from domaingrad.bench.runs.trainer import SealedVideos

from .liveness import Estimate, LivenessCurve, LivenessMetrics, liveness_curve

COLUMNS = (
    "method", "held out", "HTER", "ACER", "AUC", "EER", "TPR at FPR = 1 %", "HTER, oracle", "trials"
)  # fmt: skip
CAPTION = (
    "By video, in %. HTER and ACER at the threshold chosen on the sources' validation videos; "
    "oracle: HTER at the held-out domain's own equal error rate, which no one has who meets a new "
    "domain. Mean±standard error over trials (ddof 0); of a single trial, in brackets, the 95 % "
    "interval by bootstrap over videos."
)


@dataclass(frozen=True)
class LivenessRow:
    """A method on one held-out domain."""

    method: Method
    held_out: str
    curves: tuple[LivenessCurve, ...]
    """Of each trial that has videos."""

    def values(self) -> dict[str, list[Estimate]]:
        """Each metric's values by trial, as far as the videos define it."""
        found: dict[str, list[Estimate]] = {}
        for curve in self.curves:
            for name, value in _named(curve.metrics).items():
                if value is not None:
                    found.setdefault(name, []).append(value)
        return found

    def texts(self) -> list[str]:
        """Cells of the table."""
        values = self.values()
        cells = [_cell(values.get(name, [])) for name in COLUMNS[2:-1]]
        return [self.method.info.title, self.held_out, *cells, str(len(self.curves))]


def liveness_rows(
    videos: Mapping[tuple[Any, ...], SealedVideos],
    data: str,
    methods: Sequence[Method],
    held_out: Sequence[str],
) -> Iterator[LivenessRow]:
    """A row for each method and held-out domain with scores of videos.

    Args:
        videos: scores of the selected models, by data, method, held-out domain, trial and draw.
        data: name of the data set.
        methods: in order.
        held_out: in order.
    """
    for domain in held_out:
        for method in methods:
            curves = [
                _curve(found, domain)
                for (of, name, held, *_), found in sorted(videos.items())
                if (of, name, held) == (data, method.info.name, domain)
            ]
            if known := tuple(curve for curve in curves if curve is not None):
                yield LivenessRow(method, domain, known)


def _curve(videos: SealedVideos, held_out: str) -> LivenessCurve | None:
    """``None`` where there is no threshold to choose, or nobody to tell."""
    sources = [found for name, found in videos.items() if name != held_out]
    if held_out not in videos or not sources or not joined(sources).both:
        return None
    return liveness_curve(videos[held_out], joined(sources))


def _named(metrics: LivenessMetrics) -> dict[str, Estimate | None]:
    target = metrics.at_target
    return {
        "HTER": metrics.at_source.hter,
        "ACER": metrics.at_source.acer,
        "AUC": metrics.auc,
        "EER": metrics.eer,
        "TPR at FPR = 1 %": metrics.tpr_at_fpr,
        "HTER, oracle": None if target is None else target.hter,
    }


def _cell(values: Sequence[Estimate]) -> str:
    """In %.

    >>> _cell([Estimate(0.12, 0.1, 0.15)]), _cell([Estimate(0.1, 0, 0), Estimate(0.2, 0, 0)])
    ('12.0 (10.0–15.0)', '15.0±3.5')
    """
    if not values:
        return "–"
    each = [100 * value.value for value in values]
    if len(each) == 1:
        return f"{each[0]:.1f} ({100 * values[0].low:.1f}–{100 * values[0].high:.1f})"
    return f"{np.mean(each):.1f}±{np.std(each) / len(each) ** 0.5:.1f}"
