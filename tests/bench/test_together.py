"""Several processes train as one does, and end together."""

import itertools
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from domaingrad.bench.disk import FullDiskError
from domaingrad.bench.domains import DataError
from domaingrad.bench.models import BACKBONES, Architecture
from domaingrad.bench.runs.directory import RunDirectory
from domaingrad.bench.runs.ranks import shares
from domaingrad.bench.runs.resumable import Listener
from domaingrad.bench.runs.settings import TrainConfig
from domaingrad.bench.runs.trainer import Trainer
from domaingrad.bench.runs.training import train, train_together

from ..engine.distributed.processes import in_processes

WORLD = 2
# Five sources: fifteen samples a step, of which two processes have seven and eight.
DIGITS = TrainConfig("rotated-digits", "0°", steps=12, checkpoints=3, batch=3, accelerator="cpu")
COLOURS = replace(DIGITS, data="colored-digits", hold_out="-90%")
KILLED = replace(DIGITS, method="agr-rand", steps=120, checkpoints=24)
METHODS = ("erm", "sand-mask", "agr-rand", "pcgrad")


class CutOffError(Exception):
    """Stands for a kill of all processes."""


def outcome(out: Path):
    directory = RunDirectory(out)
    return directory.checkpoints(), directory.unseal(), load_file(directory.model)


def photographs(root: Path) -> TrainConfig:
    """Three cameras with six pictures each, whose batches are varied at random."""
    generator = torch.Generator().manual_seed(0)
    for camera, name, number in itertools.product("abc", ("cat", "dog"), range(3)):
        folder = root / camera / name
        folder.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(256, (20, 20, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
    return TrainConfig(
        str(root), "c", data_options={"size": 16}, backbone="mnist-cnn", steps=3, batch=4,
        checkpoints=1, accelerator="cpu",
    )  # fmt: skip


def configs(place: Path) -> dict[str, TrainConfig]:
    return {
        **{method: replace(DIGITS, method=method) for method in METHODS},
        "photographs": photographs(place / "photographs"),
        "photographs, erm, bf16": replace(
            photographs(place / "photographs"), precision="bf16-mixed"
        ),
        "averaged": replace(DIGITS, average="uniform", average_from=4, method="sand-mask"),
        "none held out": replace(COLOURS, hold_out=None, method="and-mask", steps=4),
    }


def drawing_model(*_):
    """One that draws in training, and has running statistics."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 10)
    )


def cut_off(config, out, step, **options):
    """As if all processes were killed after a step."""
    with pytest.MonkeyPatch.context() as patch:
        advance = Trainer.step

        def stop(trainer):
            if trainer.steps_done == step:
                raise CutOffError
            return advance(trainer)

        patch.setattr(Trainer, "step", stop)
        with pytest.raises(CutOffError):
            train_together(config, out, **options)


def told(config, out, **options) -> str:
    try:
        train_together(config, out, **options)
    except Exception as error:  # noqa: BLE001 - whatever it is
        return f"{type(error).__name__}: {error}"
    return "nothing"


def all_of_it(rank, world, place: Path):
    """Everything that the tests below look at, in one start of the processes."""
    os.environ |= {"LOCAL_RANK": str(rank), "DOMAINGRAD_CACHE": str(place / "cache")}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}  # they have met already
    among = {"processes": (world, 1)}
    heard = []
    built, build = [], Architecture.build
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Architecture, "build", lambda *a: built.append(a) or build(*a))
        for name, config in configs(place).items():
            out = place / "together" / name
            train_together(config, out, Listener(step=heard.append), loggers=("csv",), **among)
    found = {"steps heard of": len(heard), "built": len(built)}

    with pytest.MonkeyPatch.context() as patch:  # each on a node of its own
        patch.setenv("LOCAL_RANK", "0")
        patch.setenv("NODE_RANK", str(rank))
        result = train_together(KILLED, place / "uncut", processes=(1, world))
        again = train_together(KILLED, place / "uncut", processes=(1, world))
    found["told"] = (result.held_out.score, again.held_out.score)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES._entries, "drawing", drawing_model)
        for name, average in (("erm", "none"), ("and-mask", "none"), ("pcgrad", "swad")):
            # BatchNorm needs two samples of a domain, wherever there are any.
            config = replace(DIGITS, method=name, average=average, batch=6, backbone="drawing")
            train_together(config, place / "whole" / name, **among)
            cut_off(config, place / "cut" / name, 6, **among)
            train_together(config, place / "cut" / name, **among)
    out = place / "refused"
    found["no such domain"] = told(replace(DIGITS, hold_out="x"), out, **among)
    found["one lacks the data"] = told(
        replace(DIGITS, data=DIGITS.data if rank != 1 else "no/such"), out, **among
    )
    found["another seed"] = told(replace(DIGITS, seed=rank), out, **among)
    found["another run"] = told(replace(DIGITS, seed=5), place / "together" / "erm", **among)
    with pytest.MonkeyPatch.context() as patch:

        def full(*_):
            assert rank == 0
            raise FullDiskError("the disk is full")

        patch.setattr(RunDirectory, "save_state", full)
        found["full disk"] = told(DIGITS, place / "full", **among)
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="module")
def results(place):
    """What each process found, by rank."""
    return in_processes(all_of_it, WORLD, place / "processes", place)


@pytest.mark.parametrize(
    "name", [*METHODS, "photographs", "photographs, erm, bf16", "averaged", "none held out"]
)
@pytest.mark.usefixtures("results")
def test_several_processes_come_to_the_numbers_of_one(place, monkeypatch, name):
    monkeypatch.setenv("DOMAINGRAD_CACHE", str(place / "cache"))
    train(configs(place)[name], place / "alone" / name)
    tolerance = 2e-2 if "bf16" in name else 1e-5
    inner = ("", "estimate/+90%", "estimate/-90%") if name == "none held out" else ("",)
    for each in inner:
        alone, together = (outcome(place / who / name / each) for who in ("alone", "together"))
        for one, other in zip(alone[0], together[0], strict=True):
            assert other.loss == pytest.approx(one.loss, rel=tolerance)
            assert other.step == one.step
            if "bf16" not in name:
                assert other.val_score == one.val_score
                assert other.agreement == pytest.approx(one.agreement, abs=1e-3)
        if "bf16" not in name:
            assert together[1] == alone[1]
        for key, tensor in alone[2].items():
            error = (together[2][key] - tensor).norm() / tensor.norm().clamp(min=1e-12)
            assert error.item() < tolerance, key


@pytest.mark.parametrize("method", ["erm", "and-mask", "pcgrad"])
@pytest.mark.usefixtures("results")
def test_a_training_cut_off_goes_on_to_the_same_bits_on_all_processes(place, method):
    """With what each process draws for itself, and running statistics."""
    whole, cut = (outcome(place / kind / method) for kind in ("whole", "cut"))
    assert whole[:2] == cut[:2]
    for name, tensor in whole[2].items():
        assert torch.equal(tensor, cut[2][name]), name


def test_each_process_builds_each_model_once(results, place):
    # One a run, and one for each of three domains that are held out in turn.
    assert [each["built"] for each in results] == [len(configs(place)) + 3] * WORLD


def test_the_first_process_alone_tells_how_it_goes(results, place):
    assert [each["steps heard of"] > 0 for each in results] == [True, False]
    logged = (place / "together" / "erm" / "logs" / "csv" / "metrics.csv").read_text()
    assert len(logged.splitlines()) == 1 + DIGITS.checkpoints
    assert len({score for each in results for score in each["told"]}) == 1


@pytest.mark.parametrize(
    ("case", "first", "at", "said"),
    [
        ("no such domain", "UnknownNameError", 0, "no domain 'x'"),
        ("one lacks the data", "DataError", 1, "there is no no/such"),
        ("another seed", "ValueError", 0, "seed is 0 on rank 0, 1 on rank 1"),
        ("another run", "RunDirectoryError", 0, "holds another run: seed is 0 there and 5 here"),
        ("full disk", "FullDiskError", 0, "the disk is full"),
    ],
)
def test_what_ends_one_process_ends_all_and_is_raised_once(results, case, first, at, said):
    for rank, found in enumerate(results):
        kind, _, message = found[case].partition(": ")
        assert kind == (first if rank == at else "FailedElsewhereError")
        assert said in message


def command(*arguments):
    """KILLED, by the command line."""
    return [*arguments, "-m", "domaingrad", "train", "--data", KILLED.data, "--hold-out", "0°",
            "--method", KILLED.method, "--steps", str(KILLED.steps), "--batch", str(KILLED.batch),
            "--checkpoints", str(KILLED.checkpoints), "--accelerator", "cpu", "--out"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("results")
def test_a_killed_process_ends_the_other_and_the_command_goes_on_to_the_same_bits(place):
    """kill -9 of the first process, which has started the second; then on by torchrun."""
    out = place / "killed"
    first = subprocess.Popen(
        [*command(sys.executable), out, "--devices", "2"], stderr=subprocess.PIPE, text=True
    )
    records, deadline = out / "run.jsonl", time.monotonic() + 120
    while not (records.exists() and records.read_text().count("\n") >= 3):
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    _, said = first.communicate(timeout=60)  # until the second has ended, too
    assert said.count("Error: ") == 1
    assert "another process of this training has ended, or does not answer" in said
    assert "the same command goes on from the last checkpoint" in said
    assert "Traceback" not in said
    assert RunDirectory.existing(out).finished() is None

    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")
    on = subprocess.run(
        [*command(sys.executable, *torchrun), out], capture_output=True, text=True, check=False
    )
    assert on.returncode == 0, on.stderr
    assert on.stderr.count("goes on from step") == 1
    assert on.stdout.count("held out") == 1
    cut, uncut = outcome(out), outcome(place / "uncut")
    assert cut[:2] == uncut[:2]
    for name, tensor in uncut[2].items():
        assert torch.equal(tensor, cut[2][name]), name
    assert RunDirectory.existing(out).config()["decided_by"]["processes"] == 2


def test_processes_part_before_python_ends():
    """Of a group of one."""
    code = (
        "import atexit, torch.distributed as dist\n"
        "atexit.register(lambda: print(dist.is_initialized()))  # called last\n"
        "from lightning_fabric import Fabric\n"
        "from domaingrad.bench.runs.launching import joined\n"
        "joined(Fabric(accelerator='cpu', devices=1, strategy='ddp'), lambda: 'ready')\n"
        "print(dist.is_initialized())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["True", "False"], done.stderr


def test_processes_that_would_have_nothing_to_do_are_refused_before_any_is_started(tmp_path):
    said = "a step has 2 samples, 1 of each source domain, and some of 3 processes would have none"
    with pytest.raises(DataError, match=said):
        train_together(replace(COLOURS, batch=1), tmp_path / "out", processes=(3, 1))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["gsnr-dropout", "gsnr-dropout-fixed"])
def test_methods_of_one_process_are_refused_before_anything_starts(tmp_path, method):
    config = replace(DIGITS, method=method)
    with pytest.raises(DataError, match=r"works in one process only.*use one device"):
        train_together(config, tmp_path / "out", processes=(2, 1))
    assert not (tmp_path / "out").exists()


def test_nodes_that_know_nothing_of_each_other_are_refused(tmp_path, monkeypatch):
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(DataError, match="need MASTER_ADDR, MASTER_PORT, NODE_RANK in the"):
        train_together(DIGITS, tmp_path / "out", processes=(1, 2))


@pytest.mark.parametrize("sharding", ["domain by domain", "sample by sample"])
@pytest.mark.parametrize("sizes", [[5, 5], [4, 4, 4], [1, 1, 1, 1], [7]])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_shares_are_all_samples_once_and_even(sharding, sizes, world):
    taken = [shares(sharding, sizes, rank, world) for rank in range(world)]
    for domain, size in enumerate(sizes):
        rows = [row for own in taken for row in range(size)[own[domain]]]
        assert sorted(rows) == list(range(size))
    counts = [
        sum(len(range(size)[part]) for part, size in zip(own, sizes, strict=True)) for own in taken
    ]
    assert max(counts) - min(counts) <= 1
