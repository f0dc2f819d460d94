"""Metrics of live faces and attacks against hand-worked cases, literal loops and scikit-learn."""

import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn import metrics as sk

from domaingrad.bench.domains import DataError
from domaingrad.faces.liveness import Threshold, liveness_metrics
from domaingrad.faces.plots import (
    LivenessCurve,
    liveness_plot,
    operating_points,
    plot_liveness,
)
from domaingrad.faces.rates import (
    acer,
    apcer,
    apcer_by_attack,
    auc,
    bpcer,
    eer,
    far,
    hter,
    tpr_at_fpr,
)
from domaingrad.faces.reader import UNNAMED
from domaingrad.faces.video_scores import VideoScores, joined, video_scores


def scores(lives, attacks, kinds=None):
    kinds = ["print"] * len(attacks) if kinds is None else kinds
    return VideoScores(
        np.array([*lives, *attacks], dtype=float),
        np.array([True] * len(lives) + [False] * len(attacks)),
        ("",) * len(lives) + tuple(kinds),
    )


def binormal(generator, lives, attacks, distance):
    kinds = generator.choice(["print", "replay"], attacks)
    return scores(generator.normal(distance, 1, lives), generator.normal(0, 1, attacks), kinds)


# Live .9 .8 .6 .6 .3; print .7 .2; replay .6 .5 .1. By hand, at a threshold of .6: accepted are
# print .7 and replay .6, 2 of 5; rejected is live .3, 1 of 5.
WORKED = scores(
    [0.9, 0.8, 0.6, 0.6, 0.3],
    [0.7, 0.2, 0.6, 0.5, 0.1],
    ["print", "print", "replay", "replay", "replay"],
)


def test_rates_at_a_threshold_are_those_worked_by_hand():
    assert far(WORKED, 0.6) == 2 / 5
    assert bpcer(WORKED, 0.6) == 1 / 5
    assert hter(WORKED, 0.6) == pytest.approx(0.3)
    assert apcer_by_attack(WORKED, 0.6) == {"print": 1 / 2, "replay": 1 / 3}
    assert apcer(WORKED, 0.6) == 1 / 2
    assert acer(WORKED, 0.6) == pytest.approx(0.35)


def test_apcer_is_that_of_the_worst_kind_however_rare():
    rare = scores([0.9], [0.8] + [0.1] * 99, ["mask"] + ["print"] * 99)
    assert far(rare, 0.5) == 0.01
    assert apcer(rare, 0.5) == 1.0


def test_auc_counts_ties_half():
    # Pairs won of 25: live .9 and .8 win 5 each; each .6 wins 3 and ties 1; .3 wins 2.
    assert auc(WORKED) == pytest.approx((5 + 5 + 3.5 + 3.5 + 2) / 25)


def test_the_equal_error_rate_is_that_worked_by_hand():
    # FAR and FRR in fifths at .3: 3, 0; .5: 3, 1; .6: 2, 1; .7: 1, 3. Nearest at .6, 1 apart.
    assert eer(WORKED) == (pytest.approx(0.3), 0.6)


def test_of_two_thresholds_equally_near_the_higher_one_is_taken():
    # FAR and FRR at .3: 1/2, 0; at .4: 1/2, 1: |FAR − FRR| = 1/2 both; at .5: 0, 1.
    assert eer(scores([0.3], [0.4, 0.1])) == (0.75, 0.4)
    assert eer(scores([0.5], [0.5])) == (0.5, 0.5)


def test_separated_scores_have_no_errors():
    found = eer(scores([0.8, 0.9], [0.1, 0.2]))
    assert found == (0.0, 0.8)
    assert eer(scores([0.1, 0.2], [0.8, 0.9])).rate == 1.0


def test_at_a_low_rate_of_accepted_attacks_the_best_threshold_counts():
    # 2 of 200 attacks may pass at 1 %: the two at .95, so live .9 and .97 pass and .5 does not.
    lives, attacks = [0.97, 0.9, 0.5], [0.95] * 2 + [0.6] + [0.1] * 197
    assert tpr_at_fpr(scores(lives, attacks)) == pytest.approx(2 / 3)
    # A tie lets both pass or none: at .95 three attacks would.
    assert tpr_at_fpr(scores(lives, [*attacks, 0.95])) == pytest.approx(1 / 3)


def test_with_fewer_than_a_hundred_attacks_none_may_pass():
    assert tpr_at_fpr(scores([0.97, 0.9, 0.5], [0.95] + [0.1] * 98)) == pytest.approx(1 / 3)
    assert tpr_at_fpr(scores([0.97, 0.9, 0.5], [0.95] + [0.1] * 99)) == 1.0
    assert tpr_at_fpr(scores([0.5], [0.9])) == 0.0


@pytest.mark.parametrize("attacks", [100, 300, 700])
def test_whole_shares_of_attacks_are_not_lost_to_rounding(attacks):
    allowed = attacks // 100
    low = [0.1] * (attacks - allowed)
    assert tpr_at_fpr(scores([0.5], [0.9] * allowed + low)) == 1.0
    assert tpr_at_fpr(scores([0.5], [0.9] * (allowed + 1) + low[1:])) == 0.0


grades = st.lists(st.integers(0, 12), min_size=1, max_size=25)


@given(grades, grades)
def test_metrics_are_those_read_off_scikit_learns_curve(lives, attacks):
    data = scores(lives, attacks)
    fpr, tpr, thresholds = sk.roc_curve(data.live, data.score, drop_intermediate=False)
    assert auc(data) == pytest.approx(sk.auc(fpr, tpr))
    assert tpr_at_fpr(data, 0.3) == pytest.approx(tpr[fpr <= 0.3 + 1e-12].max())
    for t, accepted, live in zip(thresholds, fpr, tpr, strict=True):
        assert far(data, t) == pytest.approx(accepted)
        assert bpcer(data, t) == pytest.approx(1 - live)
    gap = np.round(np.abs(fpr - (1 - tpr)), 9)
    nearest = next(i for i in range(1, len(gap)) if gap[i] == gap[1:].min())
    assert eer(data) == (pytest.approx((fpr + 1 - tpr)[nearest] / 2), thresholds[nearest])


@given(grades, grades)
def test_a_rising_function_of_the_scores_changes_nothing(lives, attacks):
    data = scores(lives, attacks)
    risen = VideoScores(np.exp(data.score / 3) - 7, data.live, data.attack)
    assert auc(risen) == pytest.approx(auc(data))
    assert eer(risen).rate == eer(data).rate
    assert eer(risen).threshold == math.exp(eer(data).threshold / 3) - 7
    assert tpr_at_fpr(risen) == tpr_at_fpr(data)
    for metric in (hter, apcer, acer):
        assert metric(risen, eer(risen).threshold) == metric(data, eer(data).threshold)


@given(grades, grades)
def test_classes_and_signs_exchanged_give_the_same_area(lives, attacks):
    exchanged = scores([-b for b in attacks], [-a for a in lives])
    assert auc(exchanged) == pytest.approx(auc(scores(lives, attacks)))


@given(grades, grades, st.integers(-1, 13))
def test_a_higher_threshold_accepts_no_more(lives, attacks, threshold):
    data = scores(lives, attacks)
    assert far(data, threshold + 1) <= far(data, threshold)
    assert bpcer(data, threshold + 1) >= bpcer(data, threshold)
    assert acer(data, threshold) >= hter(data, threshold)


def test_a_video_scores_the_mean_of_its_frames():
    p = torch.tensor([0.5, 0.25, 1.0, 0.75], requires_grad=True)
    found = video_scores(p, torch.tensor([2, 0, 2, 0]), [True, True, False], ["", "", "print"])
    assert found.score.tolist() == [0.5, 0.75]  # video 1 has no frame here
    assert found.live.tolist() == [True, False]
    assert found.attack == ("", "print")


def test_attacks_of_no_named_kind_are_one_kind():
    assert video_scores([0.1], [0], [False], [""]).kinds == (UNNAMED,)


def test_domains_are_joined_in_order():
    whole = joined([scores([1, 2], [3]), scores([4], [5], ["mask"])])
    assert whole.score.tolist() == [1, 2, 3, 4, 5]
    assert whole.attack == ("", "", "print", "", "mask")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.1, 0.2], [0], [True], [""]), r"two lists of one length.*\[2\] and \[1\]"),
        (([0.1], [0], [True], []), r"truth and the attack of each video, found 1 and 0"),
        (([0.1], [1], [True], [""]), r"from 0 to 0, found 1 to 1"),
        (([1.5], [0], [True], [""]), r"between 0 and 1, found 1\.5 to 1\.5; apply the softmax"),
        (([math.nan], [0], [True], [""]), r"between 0 and 1, found nan"),
        (([0.5], [0], [True], ["print"]), r"none for live faces, found 1 videos otherwise"),
    ],
)
def test_frames_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        video_scores(*arguments)


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(DataError, match=r"finite scores, found 1 of 2"):
        scores([math.inf], [0.1])


@pytest.mark.parametrize(
    "metric", [auc, eer, tpr_at_fpr, lambda s: hter(s, 0), lambda s: acer(s, 0)]
)
def test_one_class_alone_has_no_metric_of_both(metric):
    with pytest.raises(DataError, match=r"needs videos of attacks; found 2 of live faces"):
        metric(scores([1, 2], []))
    with pytest.raises(
        DataError, match=r"needs videos of live faces; found 1 of attacks \(print\)"
    ):
        metric(scores([], [1]))


def test_the_headline_threshold_is_chosen_on_the_source():
    source = scores([0.9, 0.8], [0.5, 0.2])
    found = liveness_metrics(WORKED, source, np.random.default_rng(0))
    assert found.at_source.threshold == Threshold(0.8, "source validation")
    assert found.at_source.bpcer.value == 3 / 5
    assert found.at_source.apcer.value == 0.0
    assert found.at_source.hter.value == pytest.approx(0.3)
    assert found.at_source.acer.value == pytest.approx(0.3)
    assert found.at_target.threshold == Threshold(0.6, "target")
    assert found.at_target.threshold.title == "threshold of the target, an oracle"
    assert found.at_target.hter.value == found.eer.value == pytest.approx(0.3)
    assert found.at_target.apcer.value == 1 / 2
    assert found.at_target.apcer_by_attack["replay"].value == pytest.approx(1 / 3)
    assert (found.live, found.attacks) == (5, {"print": 2, "replay": 3})


def test_live_faces_alone_have_their_rate_at_the_source_threshold():
    found = liveness_metrics(scores([0.9, 0.4], []), WORKED, np.random.default_rng(0))
    assert found.at_source.bpcer.value == 0.5
    assert found.at_source.hter is found.at_source.apcer is found.at_source.acer is None
    assert found.auc is found.eer is found.tpr_at_fpr is found.at_target is None


def test_attacks_alone_have_their_rates_at_the_source_threshold():
    found = liveness_metrics(scores([], [0.9, 0.4]), WORKED, np.random.default_rng(0))
    assert found.at_source.apcer.value == 0.5
    assert found.at_source.hter is found.at_source.bpcer is found.at_target is None


def test_a_threshold_needs_both_classes_of_the_source():
    for source in (scores([1], []), scores([], [1]), scores([], [])):
        with pytest.raises(DataError, match=r"threshold from the source validation needs videos"):
            liveness_metrics(WORKED, source, np.random.default_rng(0))
    with pytest.raises(DataError, match=r"videos of the target domain, found none"):
        liveness_metrics(scores([], []), WORKED, np.random.default_rng(0))


def test_intervals_are_those_of_a_literal_bootstrap():
    generator = np.random.default_rng(3)
    target, source = binormal(generator, 30, 40, 1.0), binormal(generator, 30, 30, 2.0)
    found = liveness_metrics(target, source, np.random.default_rng(5), replicates=60)

    fixed = eer(source).threshold
    again = np.random.default_rng(5)
    of_lives = again.multinomial(30, np.full(30, 1 / 30), size=60)
    of_attacks = again.multinomial(40, np.full(40, 1 / 40), size=60)
    kinds = np.array(target.attack[30:])
    told = {name: [] for name in ("auc", "eer", "tpr", "hter", "acer", "print", "oracle")}
    for often_live, often_attack in zip(of_lives, of_attacks, strict=True):
        drawn = scores(
            np.repeat(target.lives, often_live),
            np.repeat(target.attacks, often_attack),
            np.repeat(kinds, often_attack),
        )
        told["auc"].append(sk.roc_auc_score(drawn.live, drawn.score))
        told["eer"].append(eer(drawn).rate)
        told["tpr"].append(tpr_at_fpr(drawn))
        told["hter"].append(hter(drawn, fixed))
        told["acer"].append(acer(drawn, fixed))
        told["print"].append(apcer_by_attack(drawn, fixed)["print"])
        told["oracle"].append(apcer(drawn, eer(drawn).threshold))
    estimates = {
        "auc": found.auc,
        "eer": found.eer,
        "tpr": found.tpr_at_fpr,
        "hter": found.at_source.hter,
        "acer": found.at_source.acer,
        "print": found.at_source.apcer_by_attack["print"],
        "oracle": found.at_target.apcer,
    }
    for name, estimate in estimates.items():
        expected = np.percentile(told[name], [2.5, 97.5])
        assert [estimate.low, estimate.high] == pytest.approx(expected), name


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """Binormal scores: AUC = Φ(d/√2), HTER at the middle = Φ(−d/2), in 95 of 100 by design."""
    distance, times = 1.5, 100
    generator = np.random.default_rng(0)
    source = scores([distance / 2], [-9.0])  # its threshold is the middle
    covered = {"auc": 0, "hter": 0}
    for _ in range(times):
        target = binormal(generator, 60, 60, distance)
        found = liveness_metrics(target, source, generator, replicates=200)
        truth = {"auc": norm.cdf(distance / 2**0.5), "hter": norm.cdf(-distance / 2)}
        for name, estimate in (("auc", found.auc), ("hter", found.at_source.hter)):
            covered[name] += estimate.low <= truth[name] <= estimate.high
    # Percentile intervals of 120 videos cover a little less often; 4 standard errors are 9.
    assert min(covered.values()) >= 86


@settings(max_examples=20)
@given(grades, grades, st.integers(0, 99))
def test_intervals_hold_for_any_scores_and_follow_the_generator(lives, attacks, seed):
    data = scores(lives, attacks)
    first, second = (
        liveness_metrics(data, WORKED, np.random.default_rng(seed), replicates=20) for _ in "ab"
    )
    assert first == second
    assert first.auc.value == pytest.approx(auc(data))
    assert (first.eer.value, first.at_target.threshold.value) == eer(data)
    assert first.tpr_at_fpr.value == tpr_at_fpr(data)
    for estimate in (first.auc, first.eer, first.tpr_at_fpr, first.at_target.acer):
        assert 0 <= estimate.low <= estimate.high <= 1


def test_a_thousand_replicates_of_500_videos_take_less_than_two_seconds():
    target = binormal(np.random.default_rng(0), 100, 400, 1.5)
    begun = time.process_time()
    liveness_metrics(target, target, np.random.default_rng(0))
    assert time.process_time() - begun < 2


@pytest.fixture
def curves():
    generator = np.random.default_rng(0)
    source = binormal(generator, 50, 50, 2.0)
    targets = {"M": binormal(generator, 40, 60, 1.5), "C": scores([0.8, 0.9], [0.1, 0.2])}
    return {
        name: LivenessCurve(target, liveness_metrics(target, source, generator, replicates=20))
        for name, target in targets.items()
    }


def test_the_plot_names_each_curve_in_both_themes(curves):
    plot = liveness_plot(curves)
    assert plot.light.startswith("<?xml")
    assert plot.light != plot.dark
    for kind in ("M (AUC", "C (AUC 100.0 %)", "ROC", "DET"):
        assert f"<!-- {kind}" in plot.light
    assert "an oracle" in plot.caption


def test_operating_points_lie_where_the_thresholds_are(curves):
    points = operating_points(curves["M"])
    metrics = curves["M"].metrics
    assert points["source validation"][1] == metrics.at_source.bpcer.value
    assert sum(points["target"]) / 2 == pytest.approx(metrics.eer.value)


def test_the_plot_is_written_to_a_file(curves, tmp_path):
    plot_liveness(curves, tmp_path / "roc.png")
    assert (tmp_path / "roc.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(DataError, match=r"cannot be written to .*none/roc\.png"):
        plot_liveness(curves, tmp_path / "none" / "roc.png")


def test_one_class_has_no_curve(curves):
    faces = LivenessCurve(scores([1, 2], []), curves["M"].metrics)
    with pytest.raises(DataError, match=r"faces has one of them alone"):
        liveness_plot({"faces": faces})
    with pytest.raises(DataError, match="at least one curve"):
        liveness_plot({})
