"""Differences between methods, paired over trials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from domaingrad.bench.methods import Method
from domaingrad.bench.names import imported_when_used

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = imported_when_used("pandas")

ROUNDING = 1e-12
"""Standard errors up to this are those of equal differences."""


@dataclass(frozen=True)
class Difference:
    """How much better a method is than another on the held-out domains, in accuracy.

    Trials share data, splits, initialisation and batches, so they are compared in pairs: of each
    trial the mean over the held-out domains, one method minus the other.
    """

    method: str
    baseline: str
    mean: float
    standard_error: float | None
    """Std with ddof 1, over √n; ``None`` for a single trial."""
    p: float | None
    """Two-sided paired t-test; ``None`` for a single trial, or where all differences are equal."""
    trials: int


def paired_differences(
    runs: pd.DataFrame, methods: Sequence[Method], held_out: Sequence[str]
) -> list[Difference]:
    """Each method against those it is to be tested against, as far as they were run.

    Args:
        runs: one row a finished run of one data set.
        methods: the methods, in order.
        held_out: the domains that are held out in turn; a trial counts if it has them all.
    """
    scores = runs.pivot_table(
        index=["trial", "held_out"], columns="method", values="held_out_score"
    )
    cells = [sorted(set(runs["trial"])), list(held_out)]
    scores = scores.reindex(pd.MultiIndex.from_product(cells, names=scores.index.names))
    found = []
    for method in methods:
        name = method.info.name
        for baseline in method.info.baselines:
            if name == baseline or not {name, baseline} <= set(scores.columns):
                continue
            # Only trials in which both have finished every held-out domain.
            pairs = scores[[name, baseline]].groupby("trial").agg(lambda x: x.mean(skipna=False))
            # A diverged regression scores −∞, which has no difference to anything.
            pairs = pairs.replace([-math.inf, math.inf], math.nan).dropna()
            if len(pairs) > 0:
                found.append(_difference(name, baseline, pairs))
    return found


def _difference(method: str, baseline: str, pairs: pd.DataFrame) -> Difference:
    from scipy.stats import ttest_rel  # noqa: PLC0415 - takes seconds to import

    differences = pairs[method] - pairs[baseline]
    count = len(differences)
    if count == 1:
        return Difference(method, baseline, float(differences.mean()), None, None, 1)
    error = float(differences.std(ddof=1) / count**0.5)
    p = float(ttest_rel(pairs[method], pairs[baseline]).pvalue) if error > ROUNDING else None
    return Difference(method, baseline, float(differences.mean()), error, p, count)
