"""How well live faces are told from attacks: sections of reports and of evaluations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from domaingrad.bench.methods import Method
from domaingrad.bench.runs.trainer import Recorded
from domaingrad.bench.sections import EvaluationSection, Section, SweepSection, Table

from .liveness import Estimate, LivenessCurve, LivenessMetrics, liveness_curve
from .rates import eer
from .sets import LIVE
from .video_scores import VideoScores, joined

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


class Liveness(Section):
    """Rates by video, at the threshold of the sources and at that of the target."""

    picture = "roc.png"

    def of_sweep(
        self,
        recorded: Mapping[tuple[Any, ...], Recorded],
        data: str,
        methods: Sequence[Method],
        held_out: Sequence[str],
    ) -> SweepSection | None:
        """A row for each method and held-out domain with scores of videos."""
        rows = list(_rows(recorded, data, methods, held_out))
        if not rows:
            return None
        from .plots import liveness_plots  # noqa: PLC0415 - matplotlib takes a while to import

        titles = [method.info.title for method in methods]
        document = [
            {
                "data": data,
                "method": row.method.info.name,
                "held_out": row.held_out,
                "trials": {name: [asdict(v) for v in each] for name, each in row.values().items()},
            }
            for row in rows
        ]
        curves = {
            domain: {row.method.info.title: row.curves[0] for row in rows if row.held_out == domain}
            for domain in held_out
        }
        table = Table(
            "live faces and attacks", COLUMNS, tuple(tuple(row.texts()) for row in rows), CAPTION, 2
        )
        return SweepSection(table, document, lambda: liveness_plots(curves, titles))

    def of_evaluation(self, targets: Recorded, sources: Recorded) -> EvaluationSection | None:
        """A table for each domain that is no source, with curves."""
        if not sources:
            return None
        source = joined([VideoScores.read(found) for found in sources.values()])
        curves = {
            name: liveness_curve(VideoScores.read(found), source) for name, found in targets.items()
        }
        if not curves:
            return None
        from .plots import plot_liveness  # noqa: PLC0415

        drawn = {name: curve for name, curve in curves.items() if curve.metrics.auc is not None}
        return EvaluationSection(
            tables=tuple(_by_video(name, curve.metrics) for name, curve in curves.items()),
            document={name: asdict(curve.metrics) for name, curve in curves.items()},
            draw=partial(plot_liveness, drawn) if drawn else None,
        )

    def threshold(self, sources: Recorded) -> tuple[str, float] | None:
        """Live from the equal error rate of the sources' validation videos on."""
        found = [VideoScores.read(each) for each in sources.values()]
        if not found or not (source := joined(found)).both:
            return None
        return LIVE, eer(source).threshold


def _rows(
    recorded: Mapping[tuple[Any, ...], Recorded],
    data: str,
    methods: Sequence[Method],
    held_out: Sequence[str],
) -> Iterator[LivenessRow]:
    by_place = sorted(recorded.items(), key=lambda item: item[0])
    for domain in held_out:
        for method in methods:
            curves = [
                _curve(found, domain)
                for (of, name, held, *_), found in by_place
                if (of, name, held) == (data, method.info.name, domain)
            ]
            if known := tuple(curve for curve in curves if curve is not None):
                yield LivenessRow(method, domain, known)


def _curve(recorded: Recorded, held_out: str) -> LivenessCurve | None:
    """``None`` where there is no threshold to choose, or nobody to tell."""
    videos = {name: VideoScores.read(found) for name, found in recorded.items()}
    sources = [found for name, found in videos.items() if name != held_out]
    if held_out not in videos or not sources or not joined(sources).both:
        return None
    return liveness_curve(videos[held_out], joined(sources))


def _by_video(name: str, metrics: LivenessMetrics) -> Table:
    attacks = ", ".join(f"{count} {kind}" for kind, count in metrics.attacks.items()) or "none"
    rows = [
        ("AUC", _told(metrics.auc)),
        ("EER", _told(metrics.eer)),
        ("TPR at FPR = 1 %", _told(metrics.tpr_at_fpr)),
    ]
    for rates in (metrics.at_source, metrics.at_target):
        if rates is not None:
            rows += [
                (rates.threshold.title, f"{rates.threshold.value:.3f}"),
                ("  HTER", _told(rates.hter)),
                ("  APCER, worst kind", _told(rates.apcer)),
                ("  BPCER", _told(rates.bpcer)),
                ("  ACER", _told(rates.acer)),
            ]
    title = f"{metrics.live} live, attacks: {attacks}"
    return Table(title, (f"{name}, by video", ""), tuple(rows))


def _told(found: Estimate | None) -> str:
    if found is None:
        return "–"
    return f"{100 * found.value:.1f} % ({100 * found.low:.1f} to {100 * found.high:.1f})"


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
