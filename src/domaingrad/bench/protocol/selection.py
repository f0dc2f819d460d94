"""Which run and which checkpoint count: selection methods (DomainBed, arXiv 2007.01434, §3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """A checkpoint of a run with one domain held out: what it may be selected by."""

    draw: int
    """Number of the draw of hyper-parameters."""
    step: int
    last: bool
    """Whether it is the run's last."""
    source_validation: float
    """Mean score over the source domains' ``val`` splits."""
    other_domains: float | None
    """Mean score over the source domains, each held out too by a run of its own with the same
    hyper-parameters, at the same step; ``None`` where those runs are not there."""
    held_out_validation: float
    """Score on the ``val`` split of the held-out domain: for an oracle alone."""


@dataclass(frozen=True)
class Selection:
    """A selection method."""

    name: str
    title: str
    summary: str
    criterion: Callable[[Candidate], float | None]
    """What is highest at the candidate that counts; ``None`` where it cannot be told."""
    last_only: bool = False
    """Whether only the last checkpoint of a run may be selected."""
    needs_pairs: bool = False
    """Whether it takes runs with two domains held out."""

    @property
    def oracle(self) -> bool:
        """Whether it looks at the held-out domain, so that its score is no estimate."""
        return self.name.startswith("oracle")

    def select(self, candidates: Iterable[Candidate]) -> Candidate | None:
        """The candidate that counts: of equals the one of the first draw, there the latest.

        That order among equals is ours.
        """
        known = [
            (score, -candidate.draw, candidate.step, candidate)
            for candidate in candidates
            if (candidate.last or not self.last_only)
            and (score := self.criterion(candidate)) is not None
        ]
        return max(known, key=lambda each: each[:3])[3] if known else None


SELECTIONS: dict[str, Selection] = {
    selection.name: selection
    for selection in (
        Selection(
            "training-domain-validation",
            "training-domain validation",
            "the best score on the sources' validation splits",
            lambda candidate: candidate.source_validation,
        ),
        Selection(
            "leave-one-domain-out",
            "leave-one-domain-out",
            "the best mean score on source domains that a run of their own held out, too",
            lambda candidate: candidate.other_domains,
            needs_pairs=True,
        ),
        Selection(
            "oracle-last",
            "oracle, last checkpoint",
            "the best score on the held-out domain's validation split, at the last checkpoint: no "
            "estimate for a new domain",
            lambda candidate: candidate.held_out_validation,
            last_only=True,
        ),
        Selection(
            "oracle-best",
            "oracle, best checkpoint",
            "the same over all checkpoints: no estimate for a new domain",
            lambda candidate: candidate.held_out_validation,
        ),
    )
}
"""Selection methods by name; the first is the headline."""


def training_domain_validation(scores: Sequence[float]) -> int:
    """Index of the checkpoint of one run with the best source validation, the latest of equals.

    Training-domain validation (arXiv 2007.01434, §3); that the latest of equals counts is ours.

    Args:
        scores: mean score over the source domains' ``val`` splits, by checkpoint.

    >>> training_domain_validation([0.5, 0.9, 0.9, 0.8])
    2
    """
    return max(range(len(scores)), key=lambda index: (scores[index], index))
