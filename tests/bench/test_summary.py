"""The numbers of a report, worked out by hand and by a literal search over random records."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from domaingrad.bench.reports import (
    against_published,
    latex,
    missing_lines,
    not_comparable,
    summarise,
    to_json,
)
from domaingrad.bench.reports.published import PUBLISHED
from domaingrad.bench.runs import Checkpoint, HeldOutScores, SweepConfig, SweepDirectory, make_plan
from domaingrad.bench.runs.directory import RunDirectory

HEADLINE = "training-domain-validation"
EVERY = (HEADLINE, "leave-one-domain-out", "oracle-last", "oracle-best")


def planned(**changes):
    settings = {"steps": 2, "accelerator": "cpu"}
    request = {"data": ("colored-digits",), "methods": ("erm", "and-mask"), "trials": 2}
    return make_plan(SweepConfig(**(request | changes), settings=settings))[0]


PLAN = planned()


def left(directory, run, courses, warnings=()):
    """Leave the records of a run: by checkpoint (step, validation, {domain: (train, val)})."""
    place = RunDirectory(directory.place(run.key))
    place.begin({"stands": "for settings"})
    found = [
        (
            Checkpoint(step, 0.1, validation, 0.2),
            {name: HeldOutScores(*each) for name, each in scores.items()},
            {},
        )
        for step, validation, scores in courses
    ]
    place.append(*found, finished={"seconds": 1.0, "warnings": list(warnings), "notes": []})


def summary_of(tmp_path, leave_out=lambda _: False, causes=None):
    """ERM scores 0.5 and 0.7 on every domain but -90%, where it scores 0.1 and 0.2."""
    directory = SweepDirectory(tmp_path)
    directory.replace(PLAN)
    for run in PLAN.runs:
        name = run.config.hold_out
        score = ((0.1, 0.2) if name == "-90%" else (0.5, 0.7))[run.config.trial]
        # The first checkpoint is selected; the second is better held out, which must not count.
        courses = [(1, 0.8, {name: (score, 0.0)}), (2, 0.6, {name: (1.0, 0.9)})]
        if not leave_out(run.config):
            left(directory, run, courses, ["W: x"])
    return summarise(directory, causes or {})


def test_a_cell_is_the_mean_with_the_error_of_the_literature(tmp_path):
    erm = summary_of(tmp_path).data[0].methods[0]
    cell = erm.held_out["+90%"]
    assert cell.mean == pytest.approx(0.6)
    assert cell.standard_error == pytest.approx(0.1 / math.sqrt(2))  # std with ddof 0 is 0.1
    assert cell.trials == 2
    assert erm.sources.mean == pytest.approx(0.8)
    trials = (0.5 + 0.5 + 0.1) / 3, (0.7 + 0.7 + 0.2) / 3
    assert erm.average.mean == pytest.approx(sum(trials) / 2)
    assert erm.average.standard_error == pytest.approx((trials[1] - trials[0]) / 2 / math.sqrt(2))
    assert erm.worst == ("-90%", pytest.approx(0.15))


def test_the_oracle_alone_looks_at_the_held_out_domain(tmp_path):
    tables = summary_of(tmp_path).data[0].tables
    assert tables["oracle-best"][0].average.mean == 1.0
    assert tables["oracle-last"][0].average.mean == 1.0
    assert tables[HEADLINE][0].average.mean < 0.6


def test_missing_runs_are_named_with_their_cause(tmp_path):
    failed = next(
        run for run in PLAN.runs if (run.config.method, run.config.hold_out) == ("and-mask", "+80%")
    )
    summary = summary_of(
        tmp_path,
        lambda c: (c.method, c.hold_out) in {("and-mask", "+80%"), ("and-mask", "+90%")},
        {failed.key: "Traceback:\nboom\n"},
    )
    row = summary.data[0].methods[1]
    assert row.held_out["+80%"] is None
    assert row.held_out["-90%"].trials == 2
    assert row.average is None
    assert row.worst is None
    assert missing_lines(summary) == [
        "colored-digits, AND-mask, held out +90%: 2 of 2 runs (not run)",
        "colored-digits, AND-mask, held out +80%: 2 of 2 runs (boom; not run)",
    ]
    assert summary.finished == len(PLAN.runs) - 4


def test_a_failure_that_is_written_down_is_the_cause(tmp_path):
    directory = SweepDirectory(tmp_path)
    directory.replace(PLAN)
    directory.fail(PLAN.runs[0].key, "Traceback ...\nMemoryError: too large\n")
    summary = summarise(directory)
    assert "2 of 2 runs (MemoryError: too large; not run)" in missing_lines(summary)[0]
    assert summary.data[0].methods[0].sources is None


def test_a_run_that_has_not_ended_is_missing(tmp_path):
    directory = SweepDirectory(tmp_path)
    directory.replace(PLAN)
    place = RunDirectory(directory.place(PLAN.runs[0].key))
    place.begin({"stands": "for settings"})
    place.append((Checkpoint(1, 0.1, 0.2, None), {"+90%": HeldOutScores(0.3, 0.4)}, {}))
    assert "not finished" in missing_lines(summarise(directory))[0]


def test_warnings_are_counted_over_runs(tmp_path):
    summary = summary_of(tmp_path)
    assert summary.warnings["colored-digits, erm: W: x"] == 6


def test_json_holds_the_tables_and_what_was_selected(tmp_path):
    document = json.loads(to_json(summary_of(tmp_path)))
    row = document["data"]["colored-digits"]["tables"][HEADLINE]["erm"]
    assert row["held_out"]["-90%"]["mean"] == pytest.approx(0.15)
    assert row["worst"]["domain"] == "-90%"
    assert len(document["selected"]) == len(PLAN.runs) * 3
    assert document["selections"][0] == HEADLINE


def test_latex_has_a_table_a_selection_method_with_its_letters_escaped(tmp_path):
    text = latex(summary_of(tmp_path))
    assert text.count(r"\begin{tabular}") == 3
    assert r"+90\%" in text
    assert r"60.0$\pm$7.1" in text
    assert "±" not in text


def test_all_selections_against_a_literal_search(tmp_path):
    """Random scores of 3 draws × 2 checkpoints with two domains held out where it takes them."""
    plan = planned(data=("rotated-digits",), methods=("erm",), trials=2, draws=3, selections=EVERY)
    directory = SweepDirectory(tmp_path)
    directory.replace(plan)
    random = np.random.default_rng(0)
    kept = {}
    for run in plan.runs:
        config = run.config
        for step in (1, 2):
            scores = {name: tuple(random.random(2)) for name in config.held_out}
            kept[config.trial, run.draw, frozenset(config.held_out), step] = (
                random.random(), scores,
            )  # fmt: skip
        place = frozenset(config.held_out)
        courses = [(step, *kept[config.trial, run.draw, place, step]) for step in (1, 2)]
        left(directory, run, courses)
    summary = summarise(directory)
    names = plan.data[0].held_out
    places = [(draw, step) for draw in range(3) for step in (1, 2)]
    for one in names:
        expected = {name: [] for name in EVERY}
        for trial in range(2):

            def at(draw, step, trial=trial, one=one):
                return kept[trial, draw, frozenset({one}), step]

            def others(draw, step, trial=trial, one=one):
                return np.mean([
                    kept[trial, draw, frozenset({one, j}), step][1][j][0] for j in names if j != one
                ])  # fmt: skip

            best = {
                HEADLINE: max(places, key=lambda p: at(*p)[0]),
                "leave-one-domain-out": max(places, key=lambda p: others(*p)),
                "oracle-last": max(
                    [p for p in places if p[1] == 2], key=lambda p: at(*p)[1][one][1]
                ),
                "oracle-best": max(places, key=lambda p: at(*p)[1][one][1]),
            }
            for name, place in best.items():
                expected[name].append(at(*place)[1][one][0])
        for name in EVERY:
            cell = summary.data[0].tables[name][0].held_out[one]
            assert cell.mean == pytest.approx(np.mean(expected[name])), (name, one)


def test_leave_one_domain_out_says_nothing_while_a_pair_is_missing(tmp_path):
    plan = planned(
        data=("rotated-digits",), methods=("erm",), trials=1, draws=1, selections=EVERY[:2]
    )
    directory = SweepDirectory(tmp_path)
    directory.replace(plan)
    for run in plan.runs:
        if frozenset(run.config.held_out) != frozenset({"0°", "75°"}):
            scores = dict.fromkeys(run.config.held_out, (0.5, 0.5))
            left(directory, run, [(2, 0.5, scores)])
    row = summarise(directory).data[0].tables["leave-one-domain-out"][0]
    assert [name for name, cell in row.held_out.items() if cell is None] == ["0°", "75°"]


def test_published_numbers_stand_beside_what_is_comparable_alone(tmp_path):
    summary = summary_of(tmp_path)
    assert list(against_published(summary)) == []
    assert not_comparable(summary) == ["colored-digits: no published numbers are known here."]


def differences(summary, name, **changes):
    """Of runs that are told to be of published data, with other settings."""
    (data,) = summary.data
    steps = changes.get("steps", 5000)
    planned = replace(
        data.data, name=name, backbone="mnist-cnn" if "mnist" in name else "resnet50", steps=steps,
        held_out=tuple(PUBLISHED[name].domains),
    )  # fmt: skip
    request = changes.pop("request", {})
    runs = [
        replace(run, data=name, config=replace(run.config, **changes)) for run in summary.plan.runs
    ]
    plan = replace(summary.plan, request=replace(summary.plan.request, **request), runs=tuple(runs))
    given = replace(summary, plan=plan, data=(replace(data, data=planned),))
    found = {row[-1] for row in against_published(given)}
    assert len(found) == 1
    return found.pop().split("; ")


DOMAINBED = {
    "optimizer": "adam", "schedule": "constant", "weight_decay": 0.0, "balance": "none",
    "steps": 5000,
}  # fmt: skip
DIGITS = DOMAINBED | {"learning_rate": 1e-3, "batch": 64, "checkpoints": 51}
PHOTOGRAPHS = DOMAINBED | {"learning_rate": 5e-5, "batch": 32, "checkpoints": 18,
                           "frozen_norms": True, "weights": "r50.pt",
                           "augment": ("crop", "flip", "color", "gray")}  # fmt: skip
FULL = {"draws": 20, "trials": 3, "settings": {}}
TIES = "of equals the first draw and latest checkpoint count, there the last and earliest"


def test_what_cannot_be_as_published_is_named_of_runs_that_are_as_near_as_can_be(tmp_path):
    summary = summary_of(tmp_path)
    assert differences(summary, "colored-mnist", request=FULL, **DIGITS) == [
        "a draw of the data for each trial, there one for each run", TIES
    ]  # fmt: skip
    assert differences(summary, "pacs", request=FULL, **PHOTOGRAPHS) == [
        "whether the weights are ImageNet's is not known here",
        "selected on images as they are, there on varied ones",
        "crops of a stored square of 224², there of the original",
        TIES,
    ]


def test_every_way_in_which_runs_differ_from_the_published_ones_is_named(tmp_path):
    summary = summary_of(tmp_path)
    changes = {"learning_rate": 0.01, "batch": 8, "steps": 50, "checkpoints": 5,
               "optimizer": "sgd", "average": "swad", "dropout": 0.5, "clip_norm": 1.0}  # fmt: skip
    request = {"draws": 2, "trials": 1, "settings": {"batch": 8, "learning_rate": 0.01}}
    told = {"drawn": "once"}
    assert differences(
        summary, "rotated-mnist", request=request, data_options=told, **DIGITS | changes
    ) == [
        "2 draws of hyper-parameters, not 20", "1 trials, not 3", "50 steps, not 5001",
        "5 checkpoints, not 51", "learning rate 0.01, not 0.001", "batch 8, not 64",
        "optimizer sgd, not adam", "clip norm 1, not None", "dropout 0.5, not 0",
        "average swad, not none", "given, there drawn: learning rate, batch",
        "one draw of the data for all trials, there one for each run",
        "rotated bilinearly, there bicubically", TIES,
    ]  # fmt: skip
    request = FULL | {"data_options": {"size": 64, "stored_size": 128}}
    changes = {"augment": ("none",), "frozen_norms": False, "weights": None}
    assert differences(summary, "pacs", request=request, **PHOTOGRAPHS | changes) == [
        "images of 64², not 224²", "images not varied in training by crop, flip, color, gray",
        "statistics of BatchNorm not frozen", "fresh weights, not ImageNet's",
        "selected on images as they are, there on varied ones",
        "crops of a stored square of 128², there of the original", TIES,
    ]  # fmt: skip
