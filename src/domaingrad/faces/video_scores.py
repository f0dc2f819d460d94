"""A score of each video of faces: the mean over its frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from domaingrad.bench.domains import DataError, Groups
from domaingrad.bench.domains.files import listed

from .sets import LIVE, UNNAMED

Numbers = npt.NDArray[np.float64]


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

    def described(self) -> dict[str, list[Any]]:
        """Everything, for JSON; :meth:`read` takes it back."""
        return {
            "score": self.score.tolist(), "live": self.live.tolist(), "attack": list(self.attack)
        }  # fmt: skip

    @classmethod
    def read(cls, described: Mapping[str, Any]) -> VideoScores:
        """What :meth:`described` gave."""
        score, live = _array(described["score"], np.float64), _array(described["live"], np.bool_)
        return cls(score, live, tuple(described["attack"]))

    @property
    def lives(self) -> Numbers:
        """Scores of live faces."""
        return self.score[self.live]

    @property
    def attacks(self) -> Numbers:
        """Scores of attacks."""
        return self.score[~self.live]

    @property
    def both(self) -> bool:
        """Whether there are live faces and attacks."""
        return bool(self.live.any() and not self.live.all())

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


def frames_scored(
    videos: Groups,
    classes: tuple[str, ...],
    labels: Tensor,
    rows: Tensor,
    probabilities: Tensor,
) -> dict[str, list[Any]] | None:
    """The score of each video that some samples of a domain are frames of, as it is recorded.

    Args:
        videos: of the domain.
        classes: names of the classes.
        labels: of all its samples, shape [n].
        rows: the samples in question, shape [m].
        probabilities: of the classes, for each of these, shape [m, classes].

    Returns:
        ``None`` where samples are no frames of live faces and attacks.
    """
    if LIVE not in classes:
        return None
    live = classes.index(LIVE)
    shows_live = torch.zeros(len(videos.names), dtype=torch.bool)
    shows_live[videos.of_sample[labels == live]] = True
    number = videos.of_sample[rows]
    return video_scores(probabilities[:, live], number, shows_live, videos.kinds).described()


def joined(parts: Sequence[VideoScores]) -> VideoScores:
    """The videos of several domains as one list, as of all sources' validation splits."""
    return VideoScores(
        np.concatenate([part.score for part in parts]),
        np.concatenate([part.live for part in parts]),
        tuple(kind for part in parts for kind in part.attack),
    )


def require_both(scores: VideoScores, what: str) -> None:
    """See that there are live faces and attacks.

    Raises:
        DataError: one of them is missing; ``what`` needs them.
    """
    require(scores, "live faces", what)
    require(scores, "attacks", what)


def require(scores: VideoScores, which: Literal["live faces", "attacks"], what: str) -> None:
    """See that there are some of these.

    Raises:
        DataError: there are none; ``what`` needs them.
    """
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
