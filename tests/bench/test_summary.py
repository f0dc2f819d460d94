"""The numbers of a report, worked out by hand."""

import json
import math

import pytest

from domaingrad.bench.reports import missing_lines, summarise, to_json
from domaingrad.bench.runs import (
    Checkpoint,
    HeldOutRecord,
    HeldOutScores,
    Records,
    RunRecord,
    plan,
)

COMPARISON = plan(["colored-digits"], ["erm", "and-mask"], trials=2, seed=0, steps=2)


def checkpoint(step: int, val: float) -> Checkpoint:
    return Checkpoint(step=step, loss=0.1, val_score=val, agreement=0.2)


def summary_of(tmp_path, leave_out=lambda _: False, causes=None):
    """ERM scores 0.5 and 0.7 on every domain but -90%, where it scores 0.1 and 0.2."""
    records = Records(tmp_path)
    for config in COMPARISON.runs:
        if leave_out(config):
            continue
        score = ((0.1, 0.2) if config.held_out == "-90%" else (0.5, 0.7))[config.trial]
        # The first checkpoint is selected; the second is better held out, which must not count.
        checkpoints = (checkpoint(1, 0.8), checkpoint(2, 0.6))
        records.append(
            RunRecord(config, checkpoints, 1.0, ("W: x",)),
            HeldOutRecord(config.key, (HeldOutScores(score, 0.0), HeldOutScores(1.0, 0.0))),
        )
    return summarise(COMPARISON, records, causes or {})


def test_a_cell_is_the_mean_with_the_error_of_the_literature(tmp_path):
    erm = summary_of(tmp_path).data[0].methods[0]
    cell = erm.held_out["+90%"]
    assert cell.mean == pytest.approx(0.6)
    assert cell.standard_error == pytest.approx(0.1 / math.sqrt(2))  # std with ddof 0 is 0.1
    assert cell.trials == 2
    assert erm.sources.mean == pytest.approx(0.8)
    assert erm.average == pytest.approx((0.6 + 0.6 + 0.15) / 3)
    assert erm.worst == ("-90%", pytest.approx(0.15))


def test_missing_runs_are_named_with_their_cause(tmp_path):
    failed = next(c for c in COMPARISON.runs if c.method == "and-mask" and c.held_out == "+80%")
    summary = summary_of(
        tmp_path,
        lambda c: (c.method, c.held_out) in {("and-mask", "+80%"), ("and-mask", "+90%")},
        {failed.key: "Traceback:\nboom\n"},
    )
    row = summary.data[0].methods[1]
    assert row.held_out["+80%"] is None
    assert row.held_out["-90%"].trials == 2
    assert row.average is None
    assert row.worst is None
    assert set(row.missing) == {"+80%", "+90%"}
    assert row.missing["+80%"] == ["boom", "not run"]
    assert row.missing["+90%"] == ["not run", "not run"]
    assert missing_lines(summary)[0] == (
        "colored-digits, AND-mask, held out +90%: 2 of 2 trials (not run)"
    )


def test_warnings_are_counted_over_runs(tmp_path):
    summary = summary_of(tmp_path)
    assert summary.warnings["colored-digits, erm: W: x"] == 6


def test_json_holds_the_table_and_the_runs(tmp_path):
    document = json.loads(to_json(summary_of(tmp_path)))
    row = document["data"]["colored-digits"]["methods"]["erm"]
    assert row["held_out"]["-90%"]["mean"] == pytest.approx(0.15)
    assert row["worst"]["domain"] == "-90%"
    assert len(document["runs"]) == len(COMPARISON.runs)
    assert document["selection"] == "training-domain validation"
