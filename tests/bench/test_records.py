"""Records survive a kill at any moment."""

import json

import pytest

from domaingrad.bench.runs import (
    Checkpoint,
    HeldOutRecord,
    HeldOutScores,
    Records,
    RunRecord,
    plan,
)

CONFIGS = plan(["spirals"], ["erm", "and-mask"], trials=1, seed=0).runs
CHECKPOINT = Checkpoint(step=5, loss=0.5, val_score=0.7, agreement=0.1)


def finished(config):
    record = RunRecord(config, (CHECKPOINT,), 1.5, ("a warning",))
    return record, HeldOutRecord(config.key, (HeldOutScores(0.25, 0.5),))


def test_what_is_appended_is_read_back(tmp_path):
    records = Records(tmp_path / "new" / "folder")
    for config in CONFIGS:
        records.append(*finished(config))
    again = Records(tmp_path / "new" / "folder")
    assert again.runs() == {config.key: finished(config)[0] for config in CONFIGS}
    assert again.unseal() == {config.key: finished(config)[1] for config in CONFIGS}


def test_held_out_scores_stand_in_the_sealed_file_alone(tmp_path):
    Records(tmp_path).append(*finished(CONFIGS[0]))
    assert "scores" not in (tmp_path / "runs.jsonl").read_text()
    assert json.loads((tmp_path / "held_out.jsonl").read_text())["scores"] == [
        {"train": 0.25, "val": 0.5}
    ]


@pytest.mark.parametrize("name", ["runs.jsonl", "held_out.jsonl"])
def test_a_line_cut_by_a_kill_is_dropped_and_the_whole_ones_stay(tmp_path, name):
    records = Records(tmp_path)
    for config in CONFIGS:
        records.append(*finished(config))
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-20])
    records = Records(tmp_path)
    kept = records.runs() if name == "runs.jsonl" else records.unseal()
    assert set(kept) == {CONFIGS[0].key}
    records.append(*finished(CONFIGS[1]))
    assert set(records.runs()) == set(records.unseal()) == {config.key for config in CONFIGS}


@pytest.mark.parametrize(
    "damage",
    [b"{broken", b"\xff\xfe\x00", b"[]", b"3", b'{"config": {}}', b'{"key": 1, "more": 2}'],
)
@pytest.mark.parametrize("name", ["runs.jsonl", "held_out.jsonl"])
def test_a_damaged_line_is_named(tmp_path, name, damage):
    records = Records(tmp_path)
    records.append(*finished(CONFIGS[0]))
    path = tmp_path / name
    path.write_bytes(damage + b"\n" + path.read_bytes())
    with pytest.raises(ValueError, match=rf"{name} line 1 is not a record of this version"):
        Records(tmp_path).runs()


def test_a_run_without_its_sealed_part_is_not_finished(tmp_path):
    Records(tmp_path).append(*finished(CONFIGS[0]))
    (tmp_path / "held_out.jsonl").unlink()
    assert Records(tmp_path).runs() == {}
