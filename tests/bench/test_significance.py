"""Paired differences against the t-test written out."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.special import stdtr

from domaingrad.bench.methods import ABLATIONS, METHODS
from domaingrad.bench.reports.significance import paired_differences


def runs(scores):
    """Rows from {(method, trial, held out): accuracy}."""
    columns = ["method", "trial", "held_out"]
    rows = [
        {**dict(zip(columns, key, strict=True)), "held_out_score": value}
        for key, value in scores.items()
    ]
    return pd.DataFrame(rows)


def test_differences_are_taken_trial_by_trial_over_the_mean_of_domains():
    random = np.random.default_rng(0)
    scores = {
        (method, trial, domain): random.random()
        for method in ("erm", "and-mask")
        for trial in range(5)
        for domain in ("a", "b", "c")
    }
    (found,) = paired_differences(
        runs(scores), [METHODS["erm"], METHODS["and-mask"]], ["a", "b", "c"]
    )
    d = np.array(
        [np.mean([scores["and-mask", t, e] - scores["erm", t, e] for e in "abc"]) for t in range(5)]
    )
    error = math.sqrt(((d - d.mean()) ** 2).sum() / 4 / 5)
    assert (found.method, found.baseline, found.trials) == ("and-mask", "erm", 5)
    assert found.mean == pytest.approx(d.mean())
    assert found.standard_error == pytest.approx(error)
    assert found.p == pytest.approx(2 * stdtr(4, -abs(d.mean() / error)))


def test_a_trial_that_lacks_a_domain_does_not_count():
    scores = {(m, t, e): 0.5 for m in ("erm", "and-mask") for t in range(2) for e in "ab"}
    scores["and-mask", 0, "a"] = 0.7
    del scores["erm", 1, "b"]
    (found,) = paired_differences(runs(scores), [METHODS["erm"], METHODS["and-mask"]], ["a", "b"])
    assert (found.mean, found.standard_error, found.p, found.trials) == (
        pytest.approx(0.1), None, None, 1,
    )  # fmt: skip


def test_equal_differences_have_no_p():
    scores = {(m, t, "a"): 0.5 for m in ("erm", "and-mask") for t in range(3)}
    (found,) = paired_differences(runs(scores), [METHODS["erm"], METHODS["and-mask"]], ["a"])
    assert (found.mean, found.standard_error, found.p) == (0.0, 0.0, None)


def test_ablations_are_tested_against_the_published_selection_of_the_same_ratio():
    methods = [METHODS["erm"], *ABLATIONS["gsnr"]]
    scores = {(m.info.name, t, "a"): 0.1 * t for m in methods for t in range(2)}
    found = {(d.method, d.baseline) for d in paired_differences(runs(scores), methods, ["a"])}
    assert ("drop-random", "gsnr-dropout") in found
    assert ("drop-random-fixed", "gsnr-dropout-fixed") in found
    assert ("gsnr-dropout", "erm") in found
    assert not any(method == "erm" for method, _ in found)
    # All but ERM against ERM; three other selections, each fixed and learned, against GSNR.
    assert len(found) == 8 + 6
