"""Rates of attacks accepted and of live faces rejected, video by video.

A video is accepted as live where its score, the mean probability of "live" over its frames, is at
least the threshold t. With live scores a_1 … a_n and attacks' scores b_1 … b_m,

    FAR(t) = #{b ≥ t}/m,  FRR(t) = #{a < t}/n,  HTER(t) = (FAR(t) + FRR(t))/2.

ISO/IEC 30107-3 counts attacks by their kind k: APCER(t) = max_k #{b of kind k ≥ t}/m_k, the rate of
the most successful kind; BPCER(t) = FRR(t). ACER(t) = (APCER(t) + BPCER(t))/2 is customary, and no
longer part of that standard.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .video_scores import Numbers, VideoScores, require, require_both

Counts = npt.NDArray[np.int64]

LOW_FPR = 0.01


def far(scores: VideoScores, threshold: float) -> float:
    """False acceptance rate: the share of attacks that score ``threshold`` or more.

    Raises:
        DataError: there are no attacks.
    """
    require(scores, "attacks", "a rate of accepted attacks")
    return float(np.mean(scores.attacks >= threshold))


def bpcer(scores: VideoScores, threshold: float) -> float:
    """False rejection rate, BPCER: the share of live faces that score less than ``threshold``.

    Raises:
        DataError: there are no live faces.
    """
    require(scores, "live faces", "a rate of rejected live faces")
    return float(np.mean(scores.lives < threshold))


def hter(scores: VideoScores, threshold: float) -> float:
    """Half total error rate, (FAR + FRR)/2.

    Raises:
        DataError: live faces or attacks are missing.

    >>> from domaingrad.faces.video_scores import video_scores
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
    require(scores, "attacks", "an APCER")
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
    from sklearn.metrics import roc_auc_score  # noqa: PLC0415 - takes seconds to import

    require_both(scores, "an area under the ROC curve")
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

    >>> from domaingrad.faces.video_scores import video_scores
    >>> eer(video_scores([0.9, 0.4, 0.6, 0.1], range(4), [1, 1, 0, 0], ["", "", "p", "p"]))
    EqualError(rate=0.5, threshold=0.6)
    """
    require_both(scores, "an equal error rate")
    found = Accepted.of(scores, once(scores))
    return EqualError(float(found.equal_rate[0]), float(found.equal_threshold[0]))


def tpr_at_fpr(scores: VideoScores, fpr: float = LOW_FPR) -> float:
    """The largest share of live faces accepted while at most the share ``fpr`` of attacks is.

    With fewer than 1/fpr attacks, 100 for 1 %, that is while not one attack is accepted: the share
    of live faces that score more than every attack. It is a rate of the data at hand then, and says
    little of 1 %.

    Raises:
        DataError: live faces or attacks are missing.
    """
    require_both(scores, "a true positive rate at a false positive rate")
    return float(Accepted.of(scores, once(scores)).best_under(fpr)[0])


@dataclass(frozen=True, eq=False)
class Accepted:
    """How many videos are accepted at each threshold, in each replicate."""

    threshold: Numbers
    """Scores that occur, rising; shape [t]."""
    live: Counts
    """Shape [r, t]."""
    attack: Counts

    @classmethod
    def of(cls, scores: VideoScores, weights: Counts) -> Accepted:
        """Count the videos, each as often as a replicate draws it, by weights of shape [r, v]."""
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
        """All of them, shape [r, 1]."""
        return self.attack[:, :1]

    @property
    def equal(self) -> Counts:
        """Place of the threshold of the equal error rate, shape [r]."""
        # |FAR − FRR|·m·n in whole numbers, so that what is equally near is found to be so.
        apart = np.abs(self.attack * self.lives - (self.lives - self.live) * self.attacks)
        return np.asarray(apart.shape[1] - 1 - apart[:, ::-1].argmin(1))

    @property
    def equal_threshold(self) -> Numbers:
        """As :func:`eer`."""
        return self.threshold[self.equal]

    @property
    def equal_rate(self) -> Numbers:
        """As :func:`eer`."""
        rows = np.arange(len(self.live)), self.equal
        accepted = self.attack[rows] / self.attacks[:, 0]
        rejected = (self.lives[:, 0] - self.live[rows]) / self.lives[:, 0]
        return np.asarray((accepted + rejected) / 2)

    @property
    def area(self) -> Numbers:
        """As :func:`auc`: of each attack, the live faces above it, and half of those at it."""
        none = np.zeros_like(self.attacks)
        attacks = -np.diff(self.attack, axis=1, append=none)
        above = np.concatenate([self.live[:, 1:], none], axis=1)
        won = (attacks * (above + self.live)).sum(1) / 2
        return np.asarray(won / (self.lives * self.attacks)[:, 0])

    def best_under(self, fpr: float) -> Numbers:
        """As :func:`tpr_at_fpr`."""
        # A hair more, as 0.01·300 is a little less than 3 in floating point.
        allowed = self.attack <= fpr * self.attacks * (1 + 1e-12)
        return np.asarray(np.where(allowed, self.live, 0).max(1) / self.lives[:, 0])


def once(scores: VideoScores) -> Counts:
    """Weights by which every video counts once, shape [1, v]."""
    return np.ones((1, len(scores.score)), dtype=np.int64)
