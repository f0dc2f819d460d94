"""Faces by the command line: generated, trained on, told by video."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from domaingrad.bench.domains import News, load
from domaingrad.bench.protocol import generator_of
from domaingrad.bench.runs.directory import RunDirectory
from domaingrad.bench.runs.trained import TrainedModel
from domaingrad.bench.runs.trainer import Splits
from domaingrad.cli.app import app


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "faces"
    written = run("fas-synthetic", root, "--subjects", 4, "--frames", 2, "--size", 32)
    assert written.exit_code == 0, written.output
    return root


@pytest.fixture(scope="module")
def trained(faces, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    arguments = [
        "--data",
        f"faces:{faces}",
        "--size",
        32,
        "--protocol",
        "O&C&I-M",
        "--augment",
        "none",
    ]
    arguments += ["--backbone", "mnist-cnn", "--steps", 8, "--batch", 6, "--learning-rate", 1e-3]
    result = run("train", *arguments, "--accelerator", "cpu", "--out", out)
    assert result.exit_code == 0, result.output
    assert "is generated; its O, C, I and M are none of the licensed sets" in result.stderr
    return out


def test_a_protocol_names_sources_and_the_set_held_out(trained):
    config = RunDirectory.existing(trained).config()
    assert config["hold_out"] == "M"
    assert config["data_options"]["protocol"] == "O&C&I-M"
    assert TrainedModel.load(trained / "model.safetensors").sources == ("C", "I", "O")


def rates(scores, live, attack, threshold):
    """HTER, worst APCER and BPCER, video by video."""
    false_live = {kind: [] for kind in set(attack) - {""}}
    rejected = []
    for score, is_live, kind in zip(scores, live, attack, strict=True):
        if is_live:
            rejected.append(score < threshold)
        else:
            false_live[kind].append(score >= threshold)
    everything = [wrong for kind in false_live.values() for wrong in kind]
    worst = max(np.mean(kind) for kind in false_live.values())
    return (np.mean(everything) + np.mean(rejected)) / 2, worst, np.mean(rejected)


def by_video(model, data, name, rows):
    """Mean probability of live by video, whether it is live, its attack."""
    stored, labels = data.domains[name].tensors
    probability = model.outputs(stored, rows)[:, data.classes.index("live")]
    videos, found = data.groups[name], []
    for video in range(len(videos.names)):
        own = videos.of_sample[rows] == video
        if own.any():
            is_live = labels[rows][own][0].item() == data.classes.index("live")
            found.append((probability[own].double().mean().item(), is_live, videos.kinds[video]))
    return found


def test_rates_by_video_are_those_of_a_literal_count(trained, faces):
    told = json.loads(run("evaluate", trained, "--json").stdout)["liveness"]["M"]
    model = TrainedModel.load(trained / "model.safetensors")
    data = load(f"faces:{faces}", {"size": 32}, News(), torch.Generator())
    parts = Splits.of(data, ("M",), (0, data.name, "trial 0"), data.recipe.balance)
    every = torch.arange(len(data.domains["M"]))
    scores, live, attack = zip(*by_video(model, data, "M", every), strict=True)
    assert told["live"] == sum(live)
    assert told["attacks"] == {kind: attack.count(kind) for kind in ("print", "replay")}
    source = [
        row
        for name, split in parts.sources.items()
        for row in by_video(model, data, name, split.val)
    ]
    # The threshold at which as many live faces are rejected as attacks accepted, in share.
    gaps = {}
    for threshold, _, _ in source:
        accepted = np.mean([score >= threshold for score, is_live, _ in source if not is_live])
        rejected = np.mean([score < threshold for score, is_live, _ in source if is_live])
        gaps[threshold] = abs(accepted - rejected)
    chosen = told["at_source"]["threshold"]["value"]
    nearest = min(gaps, key=lambda threshold: abs(threshold - chosen))
    assert nearest == pytest.approx(chosen, abs=1e-9)
    assert gaps[nearest] == min(gaps.values())
    expected = rates(scores, live, attack, chosen)
    found = [told["at_source"][name]["value"] for name in ("hter", "apcer", "bpcer")]
    assert found == pytest.approx(expected)
    assert told["at_source"]["acer"]["value"] == pytest.approx((expected[1] + expected[2]) / 2)


def test_curves_are_drawn_and_the_tables_name_the_oracle(trained):
    shown = run("evaluate", trained)
    assert shown.exit_code == 0, shown.output
    for words in ("M, by video", "HTER", "APCER, worst kind", "threshold of the target, an oracle"):
        assert words in shown.stdout
    assert (trained / "roc.png").read_bytes().startswith(b"\x89PNG")


def test_videos_are_not_torn_apart_and_batches_are_balanced(faces):
    data = load(f"faces:{faces}", {"size": 32}, News(), generator_of("unused"))
    parts = Splits.of(data, ("M",), (0, data.name, "trial 0"), data.recipe.balance)
    for name, split in parts.sources.items():
        of_sample = data.groups[name].of_sample
        assert not set(of_sample[split.train].tolist()) & set(of_sample[split.val].tolist())
        assert len(split.strata) == 2


def test_bad_input_is_told(faces, tmp_path):
    wrong = run("train", "--data", f"faces:{faces}", "--protocol", "O&C&I-N", "--out", tmp_path)
    assert (wrong.exit_code, "did you mean 'O&C&I-M'" in wrong.stderr) == (2, True)
    none = run("prepare-faces", "oulu-npu", tmp_path / "nothing", tmp_path / "out")
    assert none.exit_code == 2, none.output
    kind = run("prepare-faces", "oulu", tmp_path, tmp_path / "out")
    assert (kind.exit_code, "did you mean 'oulu-npu'" in kind.stderr) == (2, True)
    missing = run("train", "--data", f"faces:{tmp_path / 'no'}", "--protocol", "O&C&I-M")
    assert missing.exit_code == 2
    assert "OULU-NPU" in missing.stderr


def test_a_sweep_tells_rates_by_video_and_draws_their_curves(faces, tmp_path):
    out = tmp_path / "sweep"
    swept = run(
        "sweep", "--data", f"faces:{faces}", "--protocol", "O&C&I-M", "--size", 16, "--methods",
        "erm,pcgrad", "--trials", 2, "--draws", 1, "--steps", 2, "--checkpoints", 2, "--batch", 6,
        "--backbone", "mnist-cnn", "--augment", "none", "--learning-rate", 1e-3, "--jobs", 1,
        "--accelerator", "cpu", "--keep-models", "--out", out, "--json",
    )  # fmt: skip
    assert swept.exit_code == 0, swept.output
    summary = json.loads(swept.stdout)
    told = {row["method"]: row["trials"] for row in summary["liveness"]}
    assert set(told) == {"erm", "pcgrad"}
    # Each run's selected model, evaluated by itself, has the same rates.
    for place in sorted((out / "runs").iterdir()):
        config = RunDirectory(place).config()
        alone = json.loads(run("evaluate", place, "--json").stdout)["liveness"]["M"]
        found = told[config["method"]]
        trial = config["trial"]
        assert found["HTER"][trial] == pytest.approx(alone["at_source"]["hter"])
        assert found["ACER"][trial] == pytest.approx(alone["at_source"]["acer"])
        assert found["AUC"][trial] == pytest.approx(alone["auc"])
        assert found["HTER, oracle"][trial] == pytest.approx(alone["at_target"]["hter"])
    mean = np.mean([100 * each["value"] for each in told["erm"]["HTER"]])
    markdown = (out / "results.md").read_text()
    assert "| method | held out | HTER |" in markdown
    assert f"| ERM | M | {mean:.1f}±" in markdown
    page = (out / "report.html").read_text()
    assert "Live faces and attacks, M held out" in page
    assert page.count("<th>HTER, oracle</th>") == 1
    # A run whose scores of videos are damaged is done again.
    place = next((out / "runs").iterdir())
    with (place / "groups.jsonl").open("a") as file:
        file.write("no record\n")
    assert RunDirectory(place).condition == "damaged"


def test_faces_are_decided_at_the_threshold_that_the_sources_chose(trained, faces):
    told = json.loads(run("evaluate", trained, "--json").stdout)["liveness"]["M"]
    least = told["at_source"]["threshold"]["value"]
    frames = sorted(each for each in faces.rglob("*") if each.suffix in (".jpg", ".png"))[:12]
    done = run("predict", trained, *frames, "--json")
    assert done.exit_code == 0, done.output
    assert f"decided for live from a probability of {least:.3f} on" in done.stderr
    for row in json.loads(done.stdout):
        live = row["probabilities"]["live"] >= least
        assert row["prediction"] == ("live" if live else "spoof")
