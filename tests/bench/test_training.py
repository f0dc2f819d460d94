"""One training: cut off anywhere it comes to the same numbers, and nothing of it is lost."""

import dataclasses
import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import TensorDataset

from domaingrad import bench
from domaingrad.bench.disk import RunDirectoryError
from domaingrad.bench.domains import DataError, from_datasets
from domaingrad.bench.domains.recipes import SHORT
from domaingrad.bench.models import BACKBONES, Architecture, Network, build
from domaingrad.bench.names import UnknownNameError
from domaingrad.bench.runs.directory import RunDirectory
from domaingrad.bench.runs.launching import alone_on, fabric_of
from domaingrad.bench.runs.resumable import Listener
from domaingrad.bench.runs.settings import TrainConfig, deciding, resolved, written
from domaingrad.bench.runs.trained import TrainedModel
from domaingrad.bench.runs.training import train
from domaingrad.bench.schema import SettingError

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="fp16 needs a GPU")
DIGITS = TrainConfig("colored-digits", "-90%", steps=12, checkpoints=4, accelerator="cpu")


class CutOffError(Exception):
    """Stands for a kill."""


def cut_off(config, out, step, **options):
    def stop(status):
        if status.step == step:
            raise CutOffError

    with pytest.raises(CutOffError):
        train(config, out, Listener(step=stop), **options)


def outcome(result):
    directory = result.directory
    return directory.checkpoints(), directory.unseal(), load_file(directory.model)


def assert_same(one, other):
    assert one[:2] == other[:2]
    assert one[2].keys() == other[2].keys()
    for name, tensor in one[2].items():
        assert torch.equal(tensor, other[2][name]), name


@pytest.mark.parametrize(
    "method", ["erm", "sand-mask", "agr-rand", "pcgrad", "gsnr-dropout", "gsnr-dropout-fixed"]
)
@pytest.mark.parametrize("step", [2, 7])
def test_a_training_cut_off_goes_on_to_the_same_bits(tmp_path, method, step):
    """Steps 3, 6, 9 and 12 are checkpoints: before the first, and between two."""
    config = dataclasses.replace(DIGITS, method=method)
    whole = train(config, tmp_path / "whole")
    cut_off(config, tmp_path / "cut", step)
    assert_same(outcome(train(config, tmp_path / "cut")), outcome(whole))


def photographs(seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (3, 20, 3, 32, 32), generator=generator).to(torch.uint8)
    labels = torch.arange(20) % 2
    return {f"camera-{k}": TensorDataset(images[k], labels) for k in range(3)}


def normed_model(*_):
    """Running statistics, and a layer so large that its gradients go through a compiled kernel."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 15 * 15, 128), nn.ReLU(), nn.Linear(128, 2),
    )  # fmt: skip


def test_augmented_photographs_and_batch_norms_go_on_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setitem(BACKBONES._entries, "normed", normed_model)
    config = TrainConfig(
        "cameras", "camera-2", steps=4, checkpoints=2, batch=4, accelerator="cpu",
        method="and-mask", backbone="normed", augment=("crop", "flip", "color", "gray"),
    )  # fmt: skip
    data = from_datasets(photographs(), "cameras")
    whole = train(config, tmp_path / "whole", data=data)
    cut_off(config, tmp_path / "cut", 3, data=data)
    again = train(config, tmp_path / "cut", data=data)
    assert_same(outcome(again), outcome(whole))
    plain = train(dataclasses.replace(config, augment=("none",)), tmp_path / "plain", data=data)
    assert outcome(plain)[0] != outcome(whole)[0]


def test_short_runs_leave_photographs_as_they_are_and_say_so(tmp_path):
    data = from_datasets(photographs(), "cameras")
    config = TrainConfig("cameras", "camera-2", steps=SHORT, accelerator="cpu", backbone="mlp")
    short = dataclasses.replace(config, steps=SHORT - 1)
    assert resolved(config, data).augment == ("crop", "flip", "color", "gray")
    assert resolved(short, data).augment == ("none",)
    # What was always so makes no other run of it.
    assert "augment" not in deciding(written(resolved(config, data), data))

    some = dataclasses.replace(short, augment=("gray", "flip", "gray"))
    assert resolved(some, data).augment == ("flip", "gray")
    told = [
        train(dataclasses.replace(each, steps=2, batch=4), tmp_path / name, data=data).notes
        for name, each in (("short", short), ("some", some))
    ]
    assert [any("images are not varied" in note for note in notes) for notes in told] == [
        True, False,
    ]  # fmt: skip

    for wrong in ((), ("none", "flip")):
        with pytest.raises(SettingError, match="expected none, or some of crop"):
            resolved(dataclasses.replace(config, augment=wrong), data)
    numbers = from_datasets(
        {n: TensorDataset(torch.randn(9, 3), torch.arange(9) % 2) for n in "ab"}, "numbers"
    )
    assert resolved(TrainConfig("numbers", "a"), numbers).augment is None
    with pytest.raises(SettingError, match="augment varies photographs"):
        resolved(TrainConfig("numbers", "a", augment=("flip",)), numbers)


def test_a_killed_process_goes_on_to_the_same_bits(tmp_path):
    """kill -9, by the command line."""
    arguments = ["--data", "rotated-digits", "--hold-out", "0°", "--method", "agr-rand"]
    arguments += ["--steps", "400", "--checkpoints", "40", "--accelerator", "cpu"]
    command = [Path(sys.executable).with_name("domaingrad"), "train", *arguments, "--out"]
    process = subprocess.Popen([*command, tmp_path / "cut"], stderr=subprocess.DEVNULL)
    records, deadline = tmp_path / "cut" / "run.jsonl", time.monotonic() + 120
    while not (records.exists() and records.read_text().count("\n") >= 5):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert RunDirectory.existing(tmp_path / "cut").finished() is None
    for out in ("cut", "whole"):
        done = subprocess.run(
            [*command, tmp_path / out], capture_output=True, text=True, check=True
        )
        assert ("goes on from step" in done.stderr) == (out == "cut")
    cut, whole = (RunDirectory.existing(tmp_path / out) for out in ("cut", "whole"))
    assert cut.checkpoints() == whole.checkpoints()
    assert cut.unseal() == whole.unseal()
    assert cut.model.read_bytes() == whole.model.read_bytes()


def test_a_finished_training_is_told_again_and_not_done_again(tmp_path):
    first = train(DIGITS, tmp_path)
    steps = []
    again = train(DIGITS, tmp_path, Listener(step=steps.append))
    assert not steps
    assert again.selected == first.selected
    assert again.held_out == first.held_out


def test_the_selected_model_is_the_one_with_the_best_source_validation(tmp_path):
    config = dataclasses.replace(DIGITS, steps=60, checkpoints=12, learning_rate=0.05)
    result = train(config, tmp_path)
    best = max(result.directory.checkpoints(), key=lambda each: (each.val_score, each.step))
    assert result.selected == best
    assert result.model.facts["step"] == best.step
    assert result.directory.unseal()[best.step] == {"-90%": result.held_out}
    assert best.step < 60  # else the last would do


def test_the_model_that_is_kept_gives_the_scores_of_its_checkpoint(tmp_path):
    """Built anew from the file alone, on the samples of the held-out domain's own splits."""
    domains = photographs()
    data = from_datasets({name: domains[name] for name in domains}, "cameras", ["live", "spoof"])
    config = TrainConfig(
        "cameras", "camera-1", backbone="mnist-cnn", steps=6, batch=8, checkpoints=3,
        accelerator="cpu",
    )  # fmt: skip
    result = train(config, tmp_path, data=data)
    model = TrainedModel.load(result.directory.model)
    stored, labels = domains["camera-1"].tensors
    right = (model.outputs(stored).argmax(1) == labels).sum().item()
    assert result.held_out is not None
    assert right == pytest.approx(
        16 * result.held_out.score + 4 * result.held_out.oracle_validation
    )
    assert model.classes == ("live", "spoof")
    assert model.sources == ("camera-0", "camera-2")


def test_training_does_not_look_at_the_held_out_domain(tmp_path):
    config = TrainConfig(
        "cameras", "camera-2", backbone="mnist-cnn", steps=4, batch=4, checkpoints=2,
        accelerator="cpu",
    )  # fmt: skip
    honest = photographs()
    inputs, labels = honest["camera-2"].tensors
    sabotaged = honest | {"camera-2": TensorDataset(255 - inputs, 1 - labels)}
    results = [
        train(config, tmp_path / str(at), data=from_datasets(domains, "cameras"))
        for at, domains in enumerate((honest, sabotaged))
    ]
    one, other = map(outcome, results)
    assert_same((one[0], None, one[2]), (other[0], None, other[2]))


def test_without_a_domain_held_out_each_is_first_held_out_in_turn(tmp_path):
    config = dataclasses.replace(DIGITS, hold_out=None)
    result = train(config, tmp_path)
    assert result.held_out is None
    assert result.model.sources == ("+90%", "+80%", "-90%")
    assert result.estimate is not None
    assert set(result.estimate.scores) == {"+90%", "+80%", "-90%"}
    alone = train(DIGITS, tmp_path / "alone")
    assert alone.held_out is not None
    assert result.estimate.scores["-90%"] == alone.held_out.score


def test_regression_does_not_depend_on_the_unit_of_the_target(tmp_path):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(3, 60, 4, generator=generator)
    y = x @ torch.tensor([1.0, -2.0, 0.5, 0.0])
    scores = []
    for unit, offset in ((1.0, 0.0), (1000.0, 5e4)):
        domains = {f"d{k}": TensorDataset(x[k], unit * y[k] + offset) for k in range(3)}
        result = bench.train(
            domains, tmp_path / str(unit), hold_out="d2", steps=80, accelerator="cpu"
        )
        assert result.task == "regression"
        assert result.held_out is not None
        scores.append(result.held_out.score)
        told = result.model.outputs(x[2])
        error = (told - (unit * y[2] + offset)).square().mean()
        assert error < 0.2 * (unit * y[2]).var()
    assert scores[0] > 0.8
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)  # float32


def test_weights_of_a_file_are_where_training_starts(tmp_path):
    data = from_datasets(photographs(), "cameras")
    torch.manual_seed(5)
    other = build("mnist-cnn", (3, 32, 32), 7)
    torch.save(other.state_dict(), tmp_path / "weights.pt")
    config = TrainConfig(
        "cameras", "camera-2", backbone="mnist-cnn", weights=str(tmp_path / "weights.pt"),
        steps=1, batch=4, learning_rate=1e-12, accelerator="cpu",
    )  # fmt: skip
    result = train(config, tmp_path / "run", data=data)
    kept = load_file(result.directory.model)
    torch.testing.assert_close(kept["0.weight"], other.state_dict()["0.weight"])
    assert any("tensors of weights loaded" in note for note in result.notes)
    torch.save({"0.weight": torch.zeros(2)}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"10\.bias|0\.bias"):
        train(config, tmp_path / "again", data=data)


def test_frozen_norms_keep_their_statistics_and_a_model_without_any_is_refused(tmp_path):
    data = from_datasets(photographs(), "cameras")
    config = TrainConfig(
        "cameras", "camera-2", backbone="resnet18", frozen_norms=True, steps=2, batch=4,
        accelerator="cpu",
    )  # fmt: skip
    kept = load_file(train(config, tmp_path / "run", data=data).directory.model)
    assert torch.equal(kept["bn1.running_mean"], torch.zeros(64))
    assert not torch.equal(kept["bn1.weight"], torch.ones(64))
    with pytest.raises(DataError, match="no norms to freeze in mnist-cnn"):
        train(dataclasses.replace(config, backbone="mnist-cnn"), tmp_path / "no", data=data)


@pytest.mark.parametrize(
    ("method", "precision"),
    [
        ("erm", "bf16-mixed"),
        ("and-mask", "bf16-mixed"),
        ("gsnr-dropout-fixed", "bf16-mixed"),
        pytest.param("erm", "16-mixed", marks=NEEDS_GPU),
        pytest.param("sand-mask", "16-mixed", marks=NEEDS_GPU),
    ],
)
def test_lower_precision_computes_in_it_and_keeps_float32_weights(tmp_path, method, precision):
    """The first checkpoint is after three steps; with fp16, a skipped one would show."""
    config = dataclasses.replace(DIGITS, method=method, accelerator="auto")
    low = train(dataclasses.replace(config, precision=precision), tmp_path / "low")
    full = train(config, tmp_path / "full")
    kept = load_file(low.directory.model)
    assert all(tensor.dtype == torch.float32 for tensor in kept.values())
    losses = [result.directory.checkpoints()[0].loss for result in (low, full)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)  # bfloat16 has 8 bits


@pytest.mark.parametrize("accelerator", ["cpu", "auto"])
def test_one_process_computes_where_fabric_would(accelerator):
    config = dataclasses.replace(DIGITS, accelerator=accelerator)
    assert alone_on(config).device == fabric_of(config).device


def test_fp16_is_refused_where_it_would_be_something_else(tmp_path):
    """On a CPU, Fabric would compute in bfloat16."""
    with pytest.raises(DataError, match="16-mixed needs a GPU"):
        train(dataclasses.replace(DIGITS, precision="16-mixed"), tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()


@NEEDS_GPU
def test_fp16_scales_the_loss_and_goes_on_with_its_scale(tmp_path):
    config = dataclasses.replace(
        DIGITS, method="and-mask", precision="16-mixed", accelerator="auto"
    )
    whole = train(config, tmp_path / "whole")
    state = whole.directory.state()
    assert state is not None
    assert state["fit"]["scaler"]["scale"] >= 1024
    cut_off(config, tmp_path / "cut", 7)
    assert_same(outcome(train(config, tmp_path / "cut")), outcome(whole))
    dropout = dataclasses.replace(config, method="gsnr-dropout")
    with pytest.raises(ValueError, match="bf16-mixed or 32"):
        train(dropout, tmp_path / "dropout")


def test_loggers_get_what_the_records_get(tmp_path):
    train(DIGITS, tmp_path, loggers=["csv"])
    [log] = (tmp_path / "logs").rglob("metrics.csv")
    lines = log.read_text().splitlines()
    assert "source_validation" in lines[0]
    assert len(lines) == 1 + 4
    train(DIGITS, tmp_path / "board", loggers=["tensorboard"])
    [events] = (tmp_path / "board" / "logs" / "tensorboard").glob("events.out.tfevents.*")
    assert b"source_validation" in events.read_bytes()
    with pytest.raises(UnknownNameError, match="did you mean 'tensorboard'"):
        train(DIGITS, tmp_path, loggers=["tensorbord"])


def test_a_logger_that_is_not_installed_is_told_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning.pytorch.loggers", None)
    with pytest.raises(DataError, match="pip install lightning wandb"):
        train(DIGITS, tmp_path / "run", loggers=["wandb"])


def test_another_run_in_the_same_directory_is_refused_and_told_apart(tmp_path):
    train(DIGITS, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(RunDirectoryError, match=r"method is 'erm' there and 'and-mask' here"):
        train(dataclasses.replace(DIGITS, method="and-mask"), tmp_path)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert before == after


def test_other_code_or_data_make_another_run(tmp_path, monkeypatch):
    data = from_datasets(photographs(), "cameras")
    config = TrainConfig("cameras", None, backbone="mnist-cnn", steps=1, batch=2, accelerator="cpu")
    out = tmp_path / "run"
    train(dataclasses.replace(config, hold_out="camera-0"), out, data=data)
    other = from_datasets(photographs(seed=1), "cameras")
    with pytest.raises(RunDirectoryError, match=r"decided_by\.data"):
        train(dataclasses.replace(config, hold_out="camera-0"), out, data=other)
    with monkeypatch.context() as patch:
        patch.setattr("domaingrad.bench.runs.settings.NUMERICS", 0)
        with pytest.raises(RunDirectoryError, match=r"decided_by\.numerics is \d there and 0 here"):
            train(dataclasses.replace(config, hold_out="camera-0"), out, data=data)
    with monkeypatch.context() as patch:
        patch.setattr("domaingrad.bench.runs.settings.code_of", lambda *_: "other")
        with pytest.raises(RunDirectoryError, match=r"decided_by\.code"):
            train(dataclasses.replace(config, hold_out="camera-0"), out, data=data)
    # Another release, or PyTorch, is written down and ends nothing.
    monkeypatch.setattr("domaingrad.bench.runs.settings.code_fingerprint", lambda: "other")
    assert train(dataclasses.replace(config, hold_out="camera-0"), out, data=data).selected


def test_a_directory_of_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunDirectoryError, match=r"other files \(thesis\.tex\)"):
        train(DIGITS, tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def _hold(path: Path, ready, done):
    with RunDirectory(path).alone():
        ready.set()
        done.wait(60)


def test_two_trainings_in_one_directory_are_refused_until_the_first_is_gone(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path, ready, done))
    process.start()
    assert ready.wait(60)
    with pytest.raises(RunDirectoryError, match="another process is training"):
        train(DIGITS, tmp_path)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert train(DIGITS, tmp_path).selected


@pytest.mark.parametrize("written", [1, 3, 4, 5, 6, 7, 8])
def test_a_full_disk_keeps_what_was_written_and_the_run_goes_on(tmp_path, monkeypatch, written):
    """Settings, then at each checkpoint the sealed and the open record, the model, the state."""
    whole = train(DIGITS, tmp_path / "whole")
    sync, synced = os.fsync, []

    def full(file):
        synced.append(file)
        if len(synced) >= written:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunDirectoryError, match="the disk is full"):
            train(DIGITS, tmp_path / "cut")
    directory = RunDirectory(tmp_path / "cut")
    state = directory.state()
    assert (state and state["trainer"]["learner"]["step"]) == (3 if written > 5 else None)
    assert not list((tmp_path / "cut").glob("*.part"))
    assert_same(outcome(train(DIGITS, tmp_path / "cut")), outcome(whole))


def test_the_model_is_that_of_the_state_even_where_the_numbers_differ_after_a_kill(
    tmp_path, monkeypatch
):
    """As on another device: what is done again comes out worse."""
    config = dataclasses.replace(DIGITS, steps=60, learning_rate=0.05)
    save_state, saved = RunDirectory.save_state, []

    def killed(directory, state):
        if saved:
            raise CutOffError
        saved.append(state)
        save_state(directory, state)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "save_state", killed)
        with pytest.raises(CutOffError):
            train(config, tmp_path)
    assert TrainedModel.load(tmp_path / "model.safetensors").facts["step"] == 30
    monkeypatch.setattr("domaingrad.bench.runs.trainer.score", lambda *_: 0.1)
    result = train(config, tmp_path)
    assert result.selected.step == 15
    assert result.model.facts["step"] == 15


def test_a_line_that_a_kill_cut_short_is_forgotten(tmp_path):
    whole = train(DIGITS, tmp_path / "whole")
    cut_off(DIGITS, tmp_path / "cut", 7)
    with (tmp_path / "cut" / "run.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')
    assert_same(outcome(train(DIGITS, tmp_path / "cut")), outcome(whole))


def test_domains_are_no_paths(tmp_path):
    x, y = torch.randn(3, 10, 2), torch.arange(10) % 2
    domains = {name: TensorDataset(x[k], y) for k, name in enumerate(("../out", "a/b", "a"))}
    result = bench.train(
        domains, tmp_path / "in", hold_out=None, steps=2, checkpoints=1, accelerator="cpu"
    )
    assert result.estimate is not None
    assert set(result.estimate.scores) == {"../out", "a/b", "a"}
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert len(list((tmp_path / "in" / "estimate").iterdir())) == 3


def test_names_of_built_in_data_say_nothing_of_ones_own(tmp_path):
    x, y = torch.randn(3, 10, 2), torch.arange(10) % 2
    domains = {f"d{k}": TensorDataset(x[k], y) for k in range(3)}
    result = bench.train(
        domains, tmp_path / "run", hold_out="d0", name="spirals", steps=1, accelerator="cpu"
    )
    assert (result.config.backbone, result.config.learning_rate) == ("wide-deep", 3e-3)
    own = bench.train(
        domains, tmp_path / "own", hold_out="d0", name="spirals", steps=1, accelerator="cpu",
        backbone="own",
    )  # fmt: skip
    assert own.model.architecture == Architecture("wide-deep")  # not the spirals'


def test_a_diverged_training_is_told_and_its_model_refused(tmp_path):
    config = dataclasses.replace(DIGITS, learning_rate=1e38)
    cut_off(config, tmp_path, 12)
    result = train(config, tmp_path)
    assert any("the run has diverged" in text for text in result.warnings)
    with pytest.raises(RunDirectoryError, match="outputs for 600 of 600 samples are not finite"):
        TrainedModel.load(result.directory.model).outputs(torch.randn(600, 2, 8, 8))


def test_a_csv_log_has_all_checkpoints_after_a_kill(tmp_path):
    cut_off(DIGITS, tmp_path, 7, loggers=["csv"])
    result = train(DIGITS, tmp_path, loggers=["csv"])
    lines = (tmp_path / "logs" / "csv" / "metrics.csv").read_text().splitlines()
    assert len(lines) == 1 + 4
    assert not result.warnings


def test_bad_numbers_in_memory_are_told_with_their_place(tmp_path):
    x, y = torch.randn(10, 2), torch.arange(10) % 2
    broken = x.clone()
    broken[4, 1] = float("nan")
    with pytest.raises(DataError, match=r"b: 1 samples have an input that is not finite.* 4"):
        from_datasets({"a": TensorDataset(x, y), "b": TensorDataset(broken, y)}, "x")


def test_early_failures_leave_the_directory_free(tmp_path):
    data = from_datasets({k: v for k, v in photographs().items() if k != "camera-0"}, "cameras")
    config = TrainConfig(
        "cameras", None, method="and-mask", backbone="mnist-cnn", steps=1, accelerator="cpu"
    )
    with pytest.raises(DataError, match="needs 2 of them; found 1"):
        train(config, tmp_path, data=data)
    with pytest.raises(DataError, match="accelerator gpu-of-mine cannot be used"):
        train(dataclasses.replace(DIGITS, accelerator="gpu-of-mine"), tmp_path)
    wrong = {"tau": 7}
    with pytest.raises(ValueError, match="tau"):
        train(dataclasses.replace(DIGITS, method="sand-mask", hyperparameters=wrong), tmp_path)
    (tmp_path / ".domaingrad-0123456789ab.part").write_text("a kill left this")
    assert train(DIGITS, tmp_path).selected


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"hold_out": "-80%"}, UnknownNameError, "no domain '-80%'; did you mean"),
        ({"method": "sandmask"}, UnknownNameError, "did you mean 'sand-mask'"),
        ({"hyperparameters": {"tau": 1}}, UnknownNameError, "no hyper-parameter of erm 'tau'"),
        (
            {"method": "and-mask", "hyperparameters": {"tau": "much"}},
            SettingError,
            "tau of and-mask: input should be a valid number.*; found 'much'",
        ),
        ({"steps": 6.5}, SettingError, "steps: input should be a valid integer.*; found 6.5"),
        ({"steps": True}, SettingError, "steps: input should be a number, not true or false"),
        ({"learning_rate": "fast"}, SettingError, "learning_rate: input should be a valid number"),
        ({"compile": "perhaps"}, SettingError, "compile: input should be a valid boolean"),
        ({"steps": 0}, SettingError, "steps: input should be greater than or equal to 1; found 0"),
        ({"learning_rate": -1.0}, SettingError, "learning_rate: input should be greater than 0"),
        ({"weight_decay": float("inf")}, SettingError, "weight_decay: .* finite number; found inf"),
        ({"precision": "16"}, SettingError, "no precision '16'"),
        ({"data_options": {"size": 3}}, DataError, "colored-digits take no size"),
        ({"backbone": "resnet"}, ValueError, "resnet18"),
        ({"weights": "/no/such/file.pt"}, ValueError, "/no/such/file.pt"),
        ({"data": "colored-digit"}, UnknownNameError, "did you mean 'colored-digits'"),
    ],
)
def test_bad_settings_are_told_before_anything_is_written(tmp_path, change, error, said):
    with pytest.raises(error, match=said):
        train(dataclasses.replace(DIGITS, **change), tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_methods_that_compare_domains_say_so_of_a_single_source(tmp_path):
    domains = {name: data for name, data in photographs().items() if name != "camera-2"}
    config = TrainConfig(
        "cameras", "camera-1", method="and-mask", backbone="mnist-cnn", steps=1, accelerator="cpu"
    )
    with pytest.raises(DataError, match="AND-mask compares source domains and needs 2"):
        train(config, tmp_path / "run", data=from_datasets(domains, "cameras"))
    erm = dataclasses.replace(config, method="erm", batch=4)
    result = train(erm, tmp_path / "erm", data=from_datasets(domains, "cameras"))
    assert result.selected.agreement is None


def test_the_config_of_a_run_is_plain_yaml_and_the_record_plain_json(tmp_path):
    train(DIGITS, tmp_path)
    assert "learning_rate: 0.01\n" in (tmp_path / "config.yaml").read_text()
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert [line.get("step") for line in lines] == [3, 6, 9, 12, None]
    assert "held" not in (tmp_path / "run.jsonl").read_text()


def test_data_sets_of_other_kinds_are_stacked(tmp_path):
    class Squares(torch.utils.data.Dataset):
        def __len__(self):
            return 6

        def __getitem__(self, index):
            return torch.full((2,), float(index)), index % 2

    data = from_datasets({"a": Squares(), "b": Squares()}, "squares")
    inputs, labels = data.domains["a"].tensors
    assert inputs.tolist() == [[float(i)] * 2 for i in range(6)]
    assert labels.tolist() == [0, 1, 0, 1, 0, 1]
    with pytest.raises(DataError, match="numbered from 0"):
        from_datasets({"a": TensorDataset(torch.zeros(2, 1), torch.tensor([-1, 1]))}, "x")
    with pytest.raises(DataError, match="one shape"):
        from_datasets(
            {
                "a": TensorDataset(torch.zeros(2, 1), torch.tensor([0, 1])),
                "b": TensorDataset(torch.zeros(2, 2), torch.tensor([0, 1])),
            },
            "x",
        )


def test_a_compiled_model_trains_to_the_same_loss(tmp_path):
    compiled = train(dataclasses.replace(DIGITS, compile=True, steps=3), tmp_path / "compiled")
    plain = train(dataclasses.replace(DIGITS, steps=3), tmp_path / "plain")
    losses = [result.directory.checkpoints()[-1].loss for result in (compiled, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert isinstance(compiled.model.predictor, Network)
