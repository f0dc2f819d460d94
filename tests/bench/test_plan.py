"""The plan of a sweep: which runs it takes, which hyper-parameters they draw."""

import dataclasses
import json
import math
from collections import Counter

import pytest
import torch

from domaingrad.bench.protocol import generator_of
from domaingrad.bench.runs import Plan, SweepConfig, SweepDirectory, make_plan
from domaingrad.bench.runs.settings import UNSAID, TrainConfig

REQUEST = SweepConfig(
    ("colored-digits",), ("erm", "sand-mask"), trials=2, draws=3,
    settings={"steps": 4, "accelerator": "cpu"},
)  # fmt: skip


def planned(request=REQUEST, **changes):
    return make_plan(dataclasses.replace(request, **changes))[0]


def test_every_method_meets_every_domain_draw_and_trial_once():
    plan = planned()
    found = Counter(
        (run.config.method, run.config.hold_out, run.draw, run.config.trial) for run in plan.runs
    )
    assert set(found.values()) == {1}
    assert len(found) == 2 * 3 * 3 * 2
    assert len({run.key for run in plan.runs}) == len(plan.runs)
    assert all(run.config.also_hold_out is None for run in plan.runs)
    # An interrupted sweep is even: whole trials first.
    assert [run.config.trial for run in plan.runs] == [0] * 18 + [1] * 18


def test_the_first_draw_is_that_of_the_defaults():
    for run in planned().runs:
        if run.draw == 0 and run.config.method == "sand-mask":
            assert run.config.hyperparameters == {"tau": 0.5, "k": 10.0, "variance": "absolute"}
            assert run.config.learning_rate == pytest.approx(5e-3, rel=1)


def test_draws_lie_where_the_benchmark_draws_and_are_shared_by_methods_and_domains():
    plan = planned(draws=40, trials=1)
    by_draw = {}
    for run in plan.runs:
        by_draw.setdefault(run.draw, []).append(run.config)
    rates, ks = set(), []
    for draw, configs in by_draw.items():
        assert len({c.learning_rate for c in configs}) == 1
        assert len({c.batch for c in configs}) == 1
        (sand,) = {tuple(c.hyperparameters.items()) for c in configs if c.method == "sand-mask"}
        if draw:
            rates.add(configs[0].learning_rate)
            ks.append(math.log10(dict(sand)["k"]))
            assert 0 <= dict(sand)["tau"] < 1
            assert -3 <= ks[-1] <= 5
    assert len(rates) == 39
    # 39 uniform draws over (−3, 5) leave no third of it empty (probability below 1e-6).
    assert min(ks) < -0.3
    assert max(ks) > 2.3


def test_a_draw_is_what_its_seed_says():
    run = next(r for r in planned().runs if r.draw == 2 and r.config.method == "sand-mask")
    names = (0, "colored-digits", f"trial {run.config.trial}", "draw 2", "tau")
    u = torch.rand((), dtype=torch.float64, generator=generator_of(*names)).item()
    assert run.config.hyperparameters["tau"] == u


def test_other_trials_and_seeds_draw_others():
    def taus(plan):
        return {
            run.config.hyperparameters["tau"]
            for run in plan.runs
            if run.draw and run.config.method == "sand-mask"
        }

    assert len(taus(planned())) == 2 * 2
    assert not taus(planned()) & taus(planned(seed=1))


def test_what_is_given_is_not_drawn():
    plan = planned(settings={**REQUEST.settings, "learning_rate": 0.25, "batch": 7})
    assert {run.config.learning_rate for run in plan.runs} == {0.25}
    assert {run.config.batch for run in plan.runs} == {7}
    assert len({run.config.weight_decay for run in plan.runs}) > 3


def test_leave_one_domain_out_adds_each_pair_once_and_nothing_else():
    request = dataclasses.replace(REQUEST, data=("rotated-digits",), draws=1, trials=1)
    without = {run.key for run in planned(request).runs}
    plan = planned(request, selections=("training-domain-validation", "leave-one-domain-out"))
    assert without < {run.key for run in plan.runs}
    pairs = Counter(
        frozenset(run.config.held_out) for run in plan.runs if run.config.also_hold_out is not None
    )
    assert len(pairs) == 15  # of six domains
    assert set(pairs.values()) == {2}  # methods
    assert len(plan.runs) == 2 * (6 + 15)


def test_domains_to_hold_out_can_be_chosen():
    plan = planned(hold_out=("-90%", "+90%"), data=("colored-digits",))
    assert [run.config.hold_out for run in plan.runs[:4]] == ["-90%", "-90%", "+90%", "+90%"]
    assert plan.data[0].held_out == ("-90%", "+90%")
    assert {run.key for run in plan.runs} < {run.key for run in planned().runs}


def test_a_domain_that_is_only_held_out_is_paired_with_every_source():
    plan = planned(
        data=("spirals",), methods=("erm",), draws=1, trials=1,
        selections=("leave-one-domain-out",),
    )  # fmt: skip
    singles = [run for run in plan.runs if run.config.also_hold_out is None]
    assert [run.config.hold_out for run in singles] == ["random-shortcut"]
    pairs = {frozenset(run.config.held_out) for run in plan.runs} - {frozenset({"random-shortcut"})}
    assert len(pairs) == 16
    assert all("random-shortcut" in pair for pair in pairs)


def test_the_key_changes_with_all_that_decides_the_numbers():
    def keys(**changes):
        return {run.key for run in planned(**changes).runs}

    base = keys()
    settings = REQUEST.settings
    for changes in (
        {"seed": 1},
        {"settings": {**settings, "steps": 5}},
        {"settings": {**settings, "checkpoints": 2}},
        {"settings": {**settings, "learning_rate": 0.1}},
    ):
        assert not keys(**changes) & base, changes
    assert base < keys(trials=3)
    assert base < keys(draws=4)
    assert base < keys(methods=("erm", "sand-mask", "agr-sum"))
    assert base < keys(data=("colored-digits", "linear-toy"))


def test_a_plan_is_read_back_as_it_was_written():
    plan = planned(selections=("training-domain-validation", "oracle-last"))
    assert Plan.from_document(json.loads(json.dumps(plan.to_document()))) == plan


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 0}', "{broken"])
def test_what_is_no_plan_is_refused(text, tmp_path):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(ValueError, match="plan"):
        SweepDirectory(tmp_path).plan()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ("spiral",)}, "did you mean 'spirals'"),
        ({"methods": ("and_mask",)}, "did you mean 'and-mask'"),
        ({"selections": ("oracle",)}, "no selection method 'oracle'; did you mean 'oracle-"),
        ({"settings": {"step": 3}}, "no setting 'step'; did you mean 'steps'"),
        ({"settings": {"batch": 0}}, "batch: input should be greater than or equal to 1; found 0"),
        ({"settings": {"learning_rate": -1}}, "learning_rate: input should be greater than 0"),
        ({"hold_out": ("sketch",)}, "no domain to hold out 'sketch'"),
        ({"trials": 0}, "trials: input should be greater than or equal to 1; found 0"),
        ({"draws": 0}, "draws: input should be greater than or equal to 1; found 0"),
        ({"data_options": {"size": 3}}, "take no size"),
        (
            {"selections": ("leave-one-domain-out",)},
            "colored-digits then has 1 left to train on, and sand-mask takes 2",
        ),
    ],
)
def test_bad_requests_are_told(changes, message):
    with pytest.raises(ValueError, match=message):
        planned(**changes)


def test_photographs_and_tables_have_their_own_space(tmp_path):
    rows = ["x,y,site,label"]
    rows += [f"{i},{i % 7},{'abc'[i % 3]},{'yes' if i % 2 else 'no'}" for i in range(60)]
    (tmp_path / "table.csv").write_text("\n".join(rows))
    request = SweepConfig(
        (str(tmp_path / "table.csv"),), ("erm",), trials=1, draws=30,
        data_options={"target": "label", "domain": "site"},
    )  # fmt: skip
    plan, _ = make_plan(request)
    rates = [run.config.learning_rate for run in plan.runs if run.draw]
    assert 10**-3.5 <= min(rates) < max(rates) <= 10**-2
    assert plan.data[0].held_out == ("a", "b", "c")
    assert {run.config.hold_out for run in plan.runs} == {"a", "b", "c"}
    assert isinstance(plan.runs[0].config, TrainConfig)


def test_a_plan_of_before_a_setting_was_one_is_the_same_plan():
    """So that a later release goes on with a sweep of an older one."""
    plan = make_plan(SweepConfig(data=("spirals",), methods=("erm",), trials=1))[0]
    document = json.loads(json.dumps(plan.to_document()))
    for run in document["runs"]:
        for name in (*UNSAID, "average", "metric", "workers"):
            del run["config"][name]
    for data in document["data"]:
        del data["metric"]
    assert Plan.from_document(document) == plan
