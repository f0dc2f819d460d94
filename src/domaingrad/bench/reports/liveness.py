"""How well live faces are told from attacks, video by video.

A video is accepted as live where its score, the mean probability of "live" over its frames, is at
least the threshold t. With live scores a_1 … a_n and attacks' scores b_1 … b_m,

    FAR(t) = #{b ≥ t}/m,  FRR(t) = #{a < t}/n,  HTER(t) = (FAR(t) + FRR(t))/2.

ISO/IEC 30107-3 counts attacks by their kind k: APCER(t) = max_k #{b of kind k ≥ t}/m_k, the rate of
the most successful kind; BPCER(t) = FRR(t). ACER(t) = (APCER(t) + BPCER(t))/2 is customary, and no
longer part of that standard.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score
from torch import Tensor

from domaingrad.bench.domains import DataError
from domaingrad.bench.domains.faces import UNNAMED
from domaingrad.bench.domains.files import listed

Numbers = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

LEVEL = 0.95
"""Of the confidence intervals."""
REPLICATES = 1000
LOW_FPR = 0.01
AT_ONCE = 1 << 20
"""Weights of videos in replicates that are worked on at a time; bounds the memory they take."""

ChosenOn = Literal["source validation", "target"]


@dataclass(frozen=True, eq=False)
class VideoScores:
    """A score, the truth and the kind of attack of each video."""

    score: Numbers
    """Higher for live faces; shape [v]."""
    live: npt.NDArray[np.bool_]
    attack: tuple[str, ...]
    """Empty for live faces."""

    def __post_init__(self) -> None:
        if not len(self.score) == len(self.live) == len(self.attack):
            raise DataError(
                f"expected a score, a truth and an attack of each video, found {len(self.score)}, "
                f"{len(self.live)} and {len(self.attack)} of them."
            )
        if not np.isfinite(self.score).all():
            raise DataError(
                f"expected finite scores, found {np.count_nonzero(~np.isfinite(self.score))} of "
                f"{len(self.score)} videos without; look for a training that diverged."
            )
        wrong = [bool(kind) == live for kind, live in zip(self.attack, self.live, strict=True)]
        if any(wrong):
            raise DataError(
                f"expected a kind of attack for each attack and none for live faces, found "
                f"{sum(wrong)} videos otherwise; name a kind that is not known {UNNAMED!r}."
            )

    @property
    def lives(self) -> Numbers:
        """Scores of live faces."""
        return self.score[self.live]

    @property
    def attacks(self) -> Numbers:
        """Scores of attacks."""
        return self.score[~self.live]

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of attacks, sorted."""
        return tuple(sorted({*self.attack} - {""}))


def video_scores(
    probability: npt.ArrayLike | Tensor,
    video: npt.ArrayLike | Tensor,
    live: npt.ArrayLike | Tensor,
    attack: Sequence[str],
) -> VideoScores:
    """The mean over the frames of each video.

    Args:
        probability: of "live", of each frame, shape [n].
        video: number of each frame's video, shape [n].
        live: whether each video shows a live face, shape [v].
        attack: kind of attack of each video, empty for live faces. Attacks with an empty kind are
            one kind, ``"unnamed"``.

    Returns:
        Videos in order of their numbers. Those without a frame here, as outside a split, are left
        out.

    Raises:
        DataError: shapes that do not fit, probabilities outside [0, 1], live faces with a kind of
            attack.

    >>> scores = video_scores([0.9, 0.7, 0.2], [0, 0, 1], [True, False], ["", "print"])
    >>> scores.score.tolist()
    [0.8, 0.2]
    """
    p, number = _array(probability, np.float64), _array(video, np.int64)
    truth = _array(live, np.bool_)
    if p.ndim != 1 or p.shape != number.shape:
        raise DataError(
            f"expected the probability and the video of each frame as two lists of one length, "
            f"found shapes {list(p.shape)} and {list(number.shape)}."
        )
    if len(truth) != len(attack):
        raise DataError(
            f"expected the truth and the attack of each video, found {len(truth)} and "
            f"{len(attack)} of them."
        )
    if len(number) and not 0 <= number.min() <= number.max() < len(truth):
        raise DataError(
            f"expected numbers of videos from 0 to {len(truth) - 1}, found {number.min()} to "
            f"{number.max()}; give the truth of every video."
        )
    if len(p) and not 0 <= p.min() <= p.max() <= 1:
        raise DataError(
            f"expected probabilities between 0 and 1, found {p.min():g} to {p.max():g}; apply the "
            f"softmax to a model's outputs first."
        )
    frames = np.bincount(number, minlength=len(truth))
    sums = np.bincount(number, weights=p, minlength=len(truth))
    kept = np.flatnonzero(frames)
    kinds = [
        kind or ("" if is_live else UNNAMED) for kind, is_live in zip(attack, truth, strict=True)
    ]
    return VideoScores(sums[kept] / frames[kept], truth[kept], tuple(kinds[i] for i in kept))


def joined(parts: Sequence[VideoScores]) -> VideoScores:
    """The videos of several domains as one list, as of all sources' validation splits."""
    return VideoScores(
        np.concatenate([part.score for part in parts]),
        np.concatenate([part.live for part in parts]),
        tuple(kind for part in parts for kind in part.attack),
    )


def far(scores: VideoScores, threshold: float) -> float:
    """False acceptance rate: the share of attacks that score ``threshold`` or more.

    Raises:
        DataError: there are no attacks.
    """
    _require(scores, "attacks", "a rate of accepted attacks")
    return float(np.mean(scores.attacks >= threshold))


def bpcer(scores: VideoScores, threshold: float) -> float:
    """False rejection rate, BPCER: the share of live faces that score less than ``threshold``.

    Raises:
        DataError: there are no live faces.
    """
    _require(scores, "live faces", "a rate of rejected live faces")
    return float(np.mean(scores.lives < threshold))


def hter(scores: VideoScores, threshold: float) -> float:
    """Half total error rate, (FAR + FRR)/2.

    Raises:
        DataError: live faces or attacks are missing.

    >>> hter(video_scores([0.9, 0.4, 0.6, 0.1], range(4), [1, 1, 0, 0], ["", "", "p", "p"]), 0.5)
    0.5
    """
    return (far(scores, threshold) + bpcer(scores, threshold)) / 2


def apcer_by_attack(scores: VideoScores, threshold: float) -> dict[str, float]:
    """Attack presentation classification error rate of each kind of attack."""
    kind = np.array(scores.attack)
    return {name: float(np.mean(scores.score[kind == name] >= threshold)) for name in scores.kinds}


def apcer(scores: VideoScores, threshold: float) -> float:
    """That of the most successful kind of attack (ISO/IEC 30107-3).

    Raises:
        DataError: there are no attacks.
    """
    _require(scores, "attacks", "an APCER")
    return max(apcer_by_attack(scores, threshold).values())


def acer(scores: VideoScores, threshold: float) -> float:
    """Average classification error rate, (APCER + BPCER)/2.

    Raises:
        DataError: live faces or attacks are missing.
    """
    return (apcer(scores, threshold) + bpcer(scores, threshold)) / 2


def auc(scores: VideoScores) -> float:
    """Area under the ROC curve: P(a > b) + P(a = b)/2 for a live face's score a, an attack's b.

    Raises:
        DataError: live faces or attacks are missing.
    """
    _require_both(scores, "an area under the ROC curve")
    return float(roc_auc_score(scores.live, scores.score))


class EqualError(NamedTuple):
    """Where as many attacks are accepted as live faces rejected."""

    rate: float
    threshold: float


def eer(scores: VideoScores) -> EqualError:
    """Equal error rate, and its threshold.

    Candidates are the scores that occur, as no rate changes between two of them; so what follows
    does not depend on how scores are scaled. The threshold is the one of the smallest |FAR − FRR|,
    compared in whole numbers of videos. FAR − FRR falls from each score to the next, so at most two
    are equally near, on either side of the crossing; the higher one is taken, which accepts fewer
    attacks. The rate is (FAR + FRR)/2 there.

    Raises:
        DataError: live faces or attacks are missing.

    >>> eer(video_scores([0.9, 0.4, 0.6, 0.1], range(4), [1, 1, 0, 0], ["", "", "p", "p"]))
    EqualError(rate=0.5, threshold=0.6)
    """
    _require_both(scores, "an equal error rate")
    found = _Accepted.of(scores, _once(scores))
    return EqualError(float(found.equal_rate[0]), float(found.equal_threshold[0]))


def tpr_at_fpr(scores: VideoScores, fpr: float = LOW_FPR) -> float:
    """The largest share of live faces accepted while at most the share ``fpr`` of attacks is.

    With fewer than 1/fpr attacks, 100 for 1 %, that is while not one attack is accepted: the share
    of live faces that score more than every attack. It is a rate of the data at hand then, and says
    little of 1 %.

    Raises:
        DataError: live faces or attacks are missing.
    """
    _require_both(scores, "a true positive rate at a false positive rate")
    return float(_Accepted.of(scores, _once(scores)).best_under(fpr)[0])


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

    >>> source = video_scores([0.9, 0.6, 0.5, 0.1], range(4), [1, 1, 0, 0], ["", "", "p", "p"])
    >>> faces = video_scores([0.9, 0.4], range(2), [1, 1], ["", ""])
    >>> found = liveness_metrics(faces, source, np.random.default_rng(0))
    >>> found.at_source.bpcer.value, found.at_source.hter
    (0.5, None)
    """
    if not len(target.score):
        raise DataError("expected videos of the target domain, found none.")
    _require_both(source_validation, "a threshold from the source validation")
    fixed = Threshold(eer(source_validation).threshold, "source validation")
    once, drawn = _once(target), _replicates(target, generator, replicates)
    told = dict[str, Estimate]()
    at_target = None
    if target.live.any() and not target.live.all():
        value, replicate = _curve(target, once), _in_parts(_curve, target, drawn)
        told = {name: _estimate(value[name], replicate[name]) for name in ("auc", "eer", "tpr")}
        own = Threshold(float(value["threshold"][0]), "target")
        at_target = _at(target, own, once, drawn, replicate["threshold"])
    return LivenessMetrics(
        live=int(target.live.sum()),
        attacks={kind: target.attack.count(kind) for kind in target.kinds},
        auc=told.get("auc"),
        eer=told.get("eer"),
        tpr_at_fpr=told.get("tpr"),
        at_source=_at(target, fixed, once, drawn, np.full(len(drawn), fixed.value)),
        at_target=at_target,
    )


def _at(
    target: VideoScores, threshold: Threshold, once: Counts, drawn: Counts, chosen: Numbers
) -> AtThreshold:
    """Rates at a threshold, which is ``chosen`` in the replicates, shape [r]."""
    value = _rates(target, once, np.array([threshold.value]))
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
    accepted = _Accepted.of(scores, weights)
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


@dataclass(frozen=True, eq=False)
class _Accepted:
    """How many videos are accepted at each threshold, in each replicate."""

    threshold: Numbers
    """Scores that occur, rising; shape [t]."""
    live: Counts
    """Shape [r, t]."""
    attack: Counts

    @classmethod
    def of(cls, scores: VideoScores, weights: Counts) -> _Accepted:
        order = np.argsort(scores.score, kind="stable")
        threshold, first = np.unique(scores.score[order], return_index=True)

        def counted(members: npt.NDArray[np.bool_]) -> Counts:
            each = np.add.reduceat((weights * members)[:, order], first, axis=1)
            return np.asarray(each[:, ::-1].cumsum(1)[:, ::-1])

        return cls(threshold, counted(scores.live), counted(~scores.live))

    @property
    def lives(self) -> Counts:
        """All of them, shape [r, 1]; at the lowest threshold every video is accepted."""
        return self.live[:, :1]

    @property
    def attacks(self) -> Counts:
        return self.attack[:, :1]

    @property
    def equal(self) -> Counts:
        """Place of the threshold of the equal error rate, shape [r]."""
        # |FAR − FRR|·m·n in whole numbers, so that what is equally near is found to be so.
        apart = np.abs(self.attack * self.lives - (self.lives - self.live) * self.attacks)
        return np.asarray(apart.shape[1] - 1 - apart[:, ::-1].argmin(1))

    @property
    def equal_threshold(self) -> Numbers:
        return self.threshold[self.equal]

    @property
    def equal_rate(self) -> Numbers:
        rows = np.arange(len(self.live)), self.equal
        accepted = self.attack[rows] / self.attacks[:, 0]
        rejected = (self.lives[:, 0] - self.live[rows]) / self.lives[:, 0]
        return np.asarray((accepted + rejected) / 2)

    @property
    def area(self) -> Numbers:
        """Of each attack, the live faces above its score, and half of those at it."""
        none = np.zeros_like(self.attacks)
        attacks = -np.diff(self.attack, axis=1, append=none)
        above = np.concatenate([self.live[:, 1:], none], axis=1)
        won = (attacks * (above + self.live)).sum(1) / 2
        return np.asarray(won / (self.lives * self.attacks)[:, 0])

    def best_under(self, fpr: float) -> Numbers:
        # A hair more, as 0.01·300 is a little less than 3 in floating point.
        allowed = self.attack <= fpr * self.attacks * (1 + 1e-12)
        return np.asarray(np.where(allowed, self.live, 0).max(1) / self.lives[:, 0])


def _once(scores: VideoScores) -> Counts:
    return np.ones((1, len(scores.score)), dtype=np.int64)


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


def _require_both(scores: VideoScores, what: str) -> None:
    _require(scores, "live faces", what)
    _require(scores, "attacks", what)


def _require(scores: VideoScores, which: Literal["live faces", "attacks"], what: str) -> None:
    present = scores.live if which == "live faces" else ~scores.live
    if not present.any():
        found = f"{len(scores.live)} of attacks ({listed(scores.kinds)})"
        if which == "attacks":
            found = f"{len(scores.live)} of live faces"
        raise DataError(
            f"{what} needs videos of {which}; found {found if len(scores.live) else 'none at all'}."
        )


def _array(values: npt.ArrayLike | Tensor, dtype: Any) -> npt.NDArray[Any]:
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    return np.asarray(values, dtype=dtype)
