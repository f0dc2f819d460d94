"""Files of ours, damaged: the numbers stay as they were, or a clear line says that they cannot."""

import json
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from domaingrad.bench.runs import trained
from domaingrad.bench.runs.directory import RunDirectory

from .conftest import TRAIN
from .invoking import command, require_clear_end

FEW = settings(
    max_examples=6, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
MANY = settings(FEW, max_examples=100)
GROUPS = "groups.jsonl"
FILES = ["config.yaml", "run.jsonl", "held_out.jsonl", GROUPS, "checkpoint.pt", "model.safetensors"]
PLACES = st.floats(0, 1, exclude_max=True)


@st.composite
def damages(draw):
    """What happens to the bytes of a file; ``None`` removes it."""
    kind = draw(st.sampled_from(["flip", "cut", "insert", "drop line", "swap lines", "remove"]))
    place, other, bit = draw(PLACES), draw(PLACES), draw(st.integers(0, 7))

    def damage(content):
        at = int(place * len(content))
        lines = content.splitlines(keepends=True)
        line, second = int(place * len(lines)), int(other * len(lines))
        match kind:
            case "flip":
                return content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]
            case "cut":
                return content[:at]
            case "insert":
                return content[:at] + bytes([int(256 * other)]) + content[at:]
            case "drop line":
                return b"".join(lines[:line] + lines[line + 1 :])
            case "swap lines":
                lines[line], lines[second] = lines[second], lines[line]
                return b"".join(lines)
        return None

    return damage


def spoil(path, damage):
    content = damage(path.read_bytes())
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


def numbers(result):
    told = json.loads(result.stdout)
    return {name: told[name] for name in told if name not in ("seconds", "directory")}


def check_train(good, name, damage):
    kind = "faces" if name == GROUPS else "run"
    line = [*TRAIN, *good["runs"][kind], "--json", "--out"]
    whole = numbers(command([*line, good[kind]]))
    with tempfile.TemporaryDirectory() as root:
        run = shutil.copytree(good[kind], Path(root) / "run")
        spoil(run / name, damage)
        again = command([*line, run])
        if again.exit_code:
            require_clear_end(again, "")
            return
        assert numbers(again) == whole
        assert RunDirectory(run).condition == "finished"
        one, other = (
            trained.read_model(place / "model.safetensors") for place in (good[kind], run)
        )
        assert one[0]["facts"] == other[0]["facts"]
        assert all(torch.equal(one[1][key], other[1][key]) for key in one[1])


@pytest.mark.parametrize("name", FILES)
@FEW
@given(damage=damages())
def test_a_damaged_run_comes_to_its_numbers_again_or_says_why_not(good, name, damage):
    check_train(good, name, damage)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
@MANY
@given(damage=damages())
def test_many_damaged_runs_come_to_their_numbers_again_or_say_why_not(good, name, damage):
    check_train(good, name, damage)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.yaml", "model.safetensors"])
@MANY
@given(damage=damages())
def test_an_evaluation_of_a_damaged_run_is_the_same_or_says_why_not(good, name, damage):
    whole = json.loads(command(["evaluate", good["run"], "--json", "--no-plot"]).stdout)
    with tempfile.TemporaryDirectory() as root:
        run = shutil.copytree(good["run"], Path(root) / "run")
        spoil(run / name, damage)
        again = command(["evaluate", run, "--json", "--no-plot"])
        if again.exit_code:
            require_clear_end(again, "")
        else:
            assert json.loads(again.stdout) == whole


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plan.json", "run.jsonl", "held_out.jsonl"])
@settings(FEW, max_examples=25)  # each draws its plots
@given(damage=damages(), run=st.integers(0, 3))
def test_a_report_of_a_damaged_sweep_is_the_same_or_says_what_is_missing(good, name, damage, run):
    whole = json.loads(command(["report", good["sweep"], "--json"]).stdout)
    with tempfile.TemporaryDirectory() as root:
        sweep = shutil.copytree(good["sweep"], Path(root) / "sweep")
        runs = sorted((sweep / "runs").iterdir())
        place = sweep if name == "plan.json" else runs[run % len(runs)]
        spoil(place / name, damage)
        again = command(["report", sweep, "--json"])
        if again.exit_code:
            require_clear_end(again, "")
            return
        told = json.loads(again.stdout)
        assert told == whole or (told["missing"] and "Missing:" in again.stderr)


def test_a_damaged_sweep_comes_to_its_numbers_again(good, copied):
    sweep = copied("sweep")
    whole = json.loads(command(["report", sweep, "--json"]).stdout)
    for run in sorted((sweep / "runs").iterdir())[:3]:
        spoil(run / "held_out.jsonl", lambda content: content.replace(b"0", b"1", 1))
    again = command([*good["sweep command"][:-1], sweep, "--json"])
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["selected"] == whole["selected"]


def test_models_that_a_kill_kept_from_being_removed_are_removed(good, copied, monkeypatch):
    sweep = copied("sweep")
    first, *rest = good["sweep command"][:-1]
    line = [first, "--stack", "off", *rest, sweep]  # one by one, each leaves its model for a while
    keys = [path.name for path in (sweep / "runs").iterdir()]
    shutil.rmtree(sweep)
    with monkeypatch.context() as patch:  # where a kill may come: after the last line is there
        patch.setattr(RunDirectory, "tidy", lambda _: None)
        assert command(line).exit_code == 0
    assert len(list(sweep.glob("runs/*/model.safetensors"))) == len(keys)
    assert command(line).exit_code == 0
    assert not list(sweep.glob("runs/*/model.safetensors"))
    assert not list(sweep.glob("runs/*/checkpoint.pt"))
    assert command([*line, "--json"]).exit_code == 0


def test_models_that_are_to_be_kept_stay_whoever_asks_for_the_sweep_later(good, tmp_path):
    line = [*good["sweep command"][:-1], tmp_path / "sweep"]
    assert command([*line, "--keep-models"]).exit_code == 0
    kept = sorted(tmp_path.glob("sweep/runs/*/*.safetensors"))
    assert kept
    assert command(line).exit_code == 0
    assert sorted(tmp_path.glob("sweep/runs/*/*.safetensors")) == kept


def test_a_run_without_its_state_and_records_begins_again(good, copied):
    run = copied("run")
    line = [*TRAIN, *good["train command"], "--hold-out", "c", "--json", "--out", run]
    whole = numbers(command(line))
    (run / "checkpoint.pt").write_bytes(b"nothing")
    (run / "run.jsonl").write_bytes((run / "run.jsonl").read_bytes()[:-30])
    again = command(line)
    assert numbers(again) == whole
    assert "checkpoint.pt is damaged" in again.stderr
    assert (run / "checkpoint.pt.damaged").read_bytes() == b"nothing"


@pytest.mark.parametrize("name", ["held_out.jsonl", "model.safetensors", "run.jsonl"])
@pytest.mark.parametrize("damage", [lambda _: None, lambda content: content.replace(b"0", b"7")])
def test_what_is_missing_or_altered_is_told_and_mended(good, copied, name, damage):
    run = copied("run")
    line = [*TRAIN, *good["train command"], "--hold-out", "c", "--json", "--out", run]
    whole = numbers(command(line))
    spoil(run / name, damage)
    again = command(line)
    assert numbers(again) == whole
    assert whole["held_out"] is not None
    assert "goes on from step 2" in again.stderr
    assert name == "run.jsonl" or "done again from the last checkpoint" in again.stderr


HARMLESS = [("facts", {}), ("facts", {"name": "x"}), ("data", "x"), ("target", {}),
            ("target", {"name": "x"})]  # fmt: skip
MODELS = [
    *((key, value)
      for key in ("predictor", "architecture", "preparation", "task", "classes", "target",
                  "sources", "facts", "data")
      for value in (7, [], {}, {"name": "x"}, [[1]], "x")
      if (key, value) not in HARMLESS),
    ("format", 1), ("format", None), ("held_out", {"a": 1}),
    ("architecture", {"name": "mlp", "arguments": {"hidden": [10**9]}}),
    ("architecture", {"name": "resnet18", "arguments": {}}),
    ("architecture", {"name": "no-such", "arguments": {}}),
    ("preparation", {"kind": "photographs", "size": 8}),
    ("preparation", {"kind": "photographs", "size": -8}),
    ("preparation", {"kind": "no-such"}),
    ("predictor", {"name": "no-such", "arguments": {}}),
    ("target", {"mean": "x", "scale": 1}),
    ("task", "guessing"), ("classes", ["a"]), ("classes", ["a"] * 3),
]  # fmt: skip
"""What a stranger's model may say of itself, its checksum right."""
WEIGHTS = {
    "another shape": lambda w: {name: t.flatten()[:1] for name, t in w.items()},
    "none": lambda _: {"x": torch.zeros(1)},
    "one more": lambda w: {**w, "x": torch.zeros(1)},
    "one less": lambda w: dict(list(w.items())[1:]),
    "of text": lambda w: {name: t.to(torch.int8) for name, t in w.items()},
    "not finite": lambda w: {name: t * float("nan") for name, t in w.items()},
}


def rewrite(path, change, weights=lambda w: w):
    with safe_open(path, "pt") as file:
        told = json.loads(file.metadata()["domaingrad"])
        tensors = weights({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    told.pop("sha256")
    text = json.dumps(told | change)[:-1]
    mark = f'{text}, "sha256": "{trained._digest(tensors, text)}"}}'
    save_file(tensors, path, {"domaingrad": mark})


@pytest.mark.parametrize(("key", "value"), MODELS, ids=range(len(MODELS)))
def test_a_model_that_says_something_else_of_itself_is_refused(good, copied, key, value):
    run = copied("run")
    rewrite(run / "model.safetensors", {key: value})
    require_clear_end(command(["predict", run, good["table"]]), "model")


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_a_model_of_other_weights_is_refused(good, copied, weights):
    run = copied("run")
    rewrite(run / "model.safetensors", {}, weights)
    require_clear_end(command(["predict", run, good["table"]]), "model")


@pytest.mark.parametrize("key", ["../../secret", "/etc/passwd", "..", "x" * 16, "0" * 15, ""])
def test_a_key_that_leaves_the_folder_is_refused(copied, key):
    from domaingrad.bench.checked import read_document, write_document

    sweep = copied("sweep")
    plan = read_document(sweep / "plan.json")
    plan.pop("sum", None)
    plan["runs"][0]["key"] = key
    write_document(sweep / "plan.json", plan)
    require_clear_end(command(["report", sweep]), "no plan of this version")
