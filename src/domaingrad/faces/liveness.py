"""How well live faces are told from attacks, with what is certain of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from domaingrad.bench.domains import DataError

from .rates import LOW_FPR, Accepted, Counts, eer, once
from .video_scores import Numbers, VideoScores, require_both

LEVEL = 0.95
"""Of the confidence intervals."""
REPLICATES = 1000
BOOTSTRAP_SEED = 0
AT_ONCE = 1 << 20
"""Weights of videos in replicates that are worked on at a time; bounds the memory they take."""

ChosenOn = Literal["source validation", "target"]


@dataclass(frozen=True)
class Threshold:
    """From which score on a video is accepted, and what chose it."""

    value: float
    chosen_on: ChosenOn

    @property
    def title(self) -> str:
        """For tables.

        >>> Threshold(0.5, "target").title
        'threshold of the target, an oracle'
        """
        if self.chosen_on == "target":
            return "threshold of the target, an oracle"
        return "threshold of the source validation"


@dataclass(frozen=True)
class Estimate:
    """A metric of the videos at hand with its bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class AtThreshold:
    """Rates at one threshold; ``None`` for one that needs videos that are not there."""

    threshold: Threshold
    hter: Estimate | None
    apcer: Estimate | None
    bpcer: Estimate | None
    acer: Estimate | None
    apcer_by_attack: Mapping[str, Estimate]


@dataclass(frozen=True)
class LivenessMetrics:
    """Everything that is told of a model on the videos of a target domain.

    What needs both live faces and attacks is ``None`` where the target has one of them alone.
    """

    live: int
    """Number of videos of live faces."""
    attacks: Mapping[str, int]
    """Number of videos of each kind of attack."""
    auc: Estimate | None
    eer: Estimate | None
    tpr_at_fpr: Estimate | None
    """At FPR ≤ 1 %."""
    at_source: AtThreshold
    """The headline: the threshold knows nothing of the target."""
    at_target: AtThreshold | None
    """At the target's own equal error rate: what no one has who meets a new domain."""


@dataclass(frozen=True)
class LivenessCurve:
    """What one curve is drawn from."""

    scores: VideoScores
    """Of the target, with live faces and attacks."""
    metrics: LivenessMetrics


def liveness_metrics(
    target: VideoScores,
    source_validation: VideoScores,
    generator: np.random.Generator,
    replicates: int = REPLICATES,
) -> LivenessMetrics:
    """All metrics of the target with bootstrap intervals.

    Intervals are the 2.5 % and 97.5 % percentiles over replicates, each of which draws as many live
    videos and as many attacks as there are, with replacement. The threshold of the source
    validation is fixed in them, as it is once a model is deployed; that of the target is chosen
    anew in each. A kind of attack that a replicate does not draw does not count in its APCER. An
    interval is about other videos like these: rates of 0 or 1 have intervals of no width, and
    several videos of one person are taken as independent.

    Args:
        target: videos of the domain in question, of one class at least.
        source_validation: videos of the sources' validation splits, on whose equal error rate the
            threshold is chosen.
        generator: from which replicates are drawn.
        replicates: how many.

    Raises:
        DataError: no target videos at all, or source validation without live faces or attacks.

    >>> from domaingrad.faces.video_scores import video_scores
    >>> source = video_scores([0.9, 0.6, 0.5, 0.1], range(4), [1, 1, 0, 0], ["", "", "p", "p"])
    >>> faces = video_scores([0.9, 0.4], range(2), [1, 1], ["", ""])
    >>> found = liveness_metrics(faces, source, np.random.default_rng(0))
    >>> found.at_source.bpcer.value, found.at_source.hter
    (0.5, None)
    """
    if not len(target.score):
        raise DataError("expected videos of the target domain, found none.")
    require_both(source_validation, "a threshold from the source validation")
    fixed = Threshold(eer(source_validation).threshold, "source validation")
    whole, drawn = once(target), _replicates(target, generator, replicates)
    told = dict[str, Estimate]()
    at_target = None
    if target.both:
        value, replicate = _curve(target, whole), _in_parts(_curve, target, drawn)
        told = {name: _estimate(value[name], replicate[name]) for name in ("auc", "eer", "tpr")}
        own = Threshold(float(value["threshold"][0]), "target")
        at_target = _at(target, own, whole, drawn, replicate["threshold"])
    return LivenessMetrics(
        live=int(target.live.sum()),
        attacks={kind: target.attack.count(kind) for kind in target.kinds},
        auc=told.get("auc"),
        eer=told.get("eer"),
        tpr_at_fpr=told.get("tpr"),
        at_source=_at(target, fixed, whole, drawn, np.full(len(drawn), fixed.value)),
        at_target=at_target,
    )


def liveness_curve(target: VideoScores, source_validation: VideoScores) -> LivenessCurve:
    """The target's videos and all metrics of them; intervals are the same each time."""
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    return LivenessCurve(target, liveness_metrics(target, source_validation, generator))


def _at(
    target: VideoScores, threshold: Threshold, whole: Counts, drawn: Counts, chosen: Numbers
) -> AtThreshold:
    """Rates at a threshold, which is ``chosen`` in the replicates, shape [r]."""
    value = _rates(target, whole, np.array([threshold.value]))
    replicate = _in_parts(_rates, target, drawn, chosen)
    told = {name: _estimate(value[name], replicate[name]) for name in value}
    return AtThreshold(
        threshold=threshold,
        hter=told.get("HTER"),
        apcer=told.get("APCER"),
        bpcer=told.get("BPCER"),
        acer=told.get("ACER"),
        apcer_by_attack={kind: told[f"APCER of {kind}"] for kind in target.kinds},
    )


def _curve(scores: VideoScores, weights: Counts) -> dict[str, Numbers]:
    """What needs no threshold, and that of the equal error rate, in each replicate."""
    accepted = Accepted.of(scores, weights)
    return {
        "auc": accepted.area,
        "eer": accepted.equal_rate,
        "tpr": accepted.best_under(LOW_FPR),
        "threshold": accepted.equal_threshold,
    }


def _rates(scores: VideoScores, weights: Counts, threshold: Numbers) -> dict[str, Numbers]:
    """What the videos define at a threshold of each replicate."""
    accepted = scores.score >= threshold[:, None]
    kind = np.array(scores.attack)

    def share(members: npt.NDArray[np.bool_], counted: npt.NDArray[np.bool_]) -> Numbers:
        total = weights[:, members].sum(1)
        each = (weights[:, members] * counted[:, members]).sum(1)
        return np.where(total > 0, each / np.maximum(total, 1), np.nan)

    rates = {f"APCER of {name}": share(kind == name, accepted) for name in scores.kinds}
    if rates:
        rates["APCER"] = np.asarray(np.fmax.reduce([*rates.values()]))
    if scores.live.any():
        rates["BPCER"] = share(scores.live, ~accepted)
    if "APCER" in rates and "BPCER" in rates:
        rates["ACER"] = (rates["APCER"] + rates["BPCER"]) / 2
        rates["HTER"] = (share(~scores.live, accepted) + rates["BPCER"]) / 2
    return rates


def _replicates(scores: VideoScores, generator: np.random.Generator, count: int) -> Counts:
    """How often each video is drawn in each replicate, shape [r, v]; live faces are drawn first."""
    weights = np.zeros((count, len(scores.score)), dtype=np.int64)
    for members in (scores.live, ~scores.live):
        n = int(members.sum())
        if n:
            weights[:, members] = generator.multinomial(n, np.full(n, 1 / n), size=count)
    return weights


def _in_parts(
    of: Callable[..., dict[str, Numbers]], scores: VideoScores, *replicates: npt.NDArray[Any]
) -> dict[str, Numbers]:
    """What ``of`` finds in each replicate; the arrays have one row a replicate."""
    rows = max(1, AT_ONCE // len(scores.score))
    parts = [
        of(scores, *(each[start : start + rows] for each in replicates))
        for start in range(0, len(replicates[0]), rows)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _estimate(value: Numbers, replicates: Numbers) -> Estimate:
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(replicates, [tail, 1 - tail])
    return Estimate(float(value[0]), float(low), float(high))
