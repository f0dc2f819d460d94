"""train by several processes, as they are started: by itself, by torchrun, by hand on each node."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from domaingrad.bench.runs.directory import RunDirectory
from domaingrad.bench.runs.ranks import FailedElsewhereError, LostProcessError
from domaingrad.cli.app import app
from domaingrad.cli.processes import ended_together

TRAIN = ["-m", "domaingrad", "train", "--data", "colored-digits", "--hold-out=-90%"]
TRAIN += ["--method", "agr-rand", "--steps", "120", "--checkpoints", "24", "--accelerator", "cpu"]
PLAIN = {
    name: value
    for name, value in os.environ.items()
    if name not in ("LOCAL_RANK", "RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
}


def run(*arguments, by=()):
    command = [sys.executable, *by, *TRAIN, *map(str, arguments)]
    return subprocess.run(
        command, env=PLAIN, capture_output=True, text=True, timeout=300, check=False
    )


def node(number, port, out):
    """One of two nodes, each with one process, started by hand."""
    own = {"NODE_RANK": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return subprocess.Popen(
        [sys.executable, *TRAIN, "--devices", "1", "--nodes", "2", "--out", out],
        env=PLAIN | own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """A training whose second node is killed, and what the first says of it."""
    out = tmp_path_factory.mktemp("runs") / "cut"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The second has nothing to write, so its directory does not matter.
    first, second = node(0, port, out), node(1, port, out / "elsewhere")
    records, deadline = out / "run.jsonl", time.monotonic() + 120
    try:
        while not (records.exists() and records.read_text().count("\n") >= 5):
            assert first.poll() is None, first.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        second.send_signal(signal.SIGKILL)
        began = time.monotonic()
        _, said = first.communicate(timeout=120)
        seconds = time.monotonic() - began
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()
    return out, first.returncode, said, seconds


def test_a_process_that_is_killed_ends_the_others_with_an_error(cut):
    out, status, said, seconds = cut
    assert status == 1
    assert seconds < 60
    assert said.count("Error: ") == 1
    assert "another process of this training has ended, or does not answer" in said
    assert "the same command goes on from the last checkpoint" in said
    assert "Traceback" not in said
    assert RunDirectory.existing(out).finished() is None
    assert not (out / "elsewhere").exists()


def test_the_same_command_goes_on_to_the_same_bits(cut, tmp_path):
    out, *_ = cut
    on = run("--devices", 2, "--out", out)
    assert on.returncode == 0, on.stderr
    assert on.stderr.count("goes on from step") == 1
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    whole = run("--out", tmp_path / "whole", "--json", by=torchrun)
    assert whole.returncode == 0, whole.stderr
    assert json.loads(whole.stdout)["held_out"] is not None
    cut_off, uncut = RunDirectory.existing(out), RunDirectory.existing(tmp_path / "whole")
    assert cut_off.checkpoints() == uncut.checkpoints()
    assert cut_off.unseal() == uncut.unseal()
    assert cut_off.model.read_bytes() == uncut.model.read_bytes()
    assert uncut.config()["made_by"]["processes"] == 2


@pytest.mark.parametrize(
    ("ended", "local_rank", "status", "said"),
    [
        (FailedElsewhereError("the disk is full"), 0, 2, "Error: on another node: the disk is"),
        (FailedElsewhereError("the disk is full"), 1, 0, ""),
        (LostProcessError("one has ended"), 0, 1, "Error: one has ended"),
        (LostProcessError("one has ended"), 1, 1, ""),
        (KeyboardInterrupt(), 0, 130, "Interrupted; the same command goes on from the last"),
        (KeyboardInterrupt(), 1, 130, ""),
    ],
)
def test_one_process_of_a_node_says_why_all_end(monkeypatch, ended, local_rank, status, said):
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    errors = Console(file=io.StringIO(), width=200)
    with pytest.raises(typer.Exit) as left, ended_together(errors):
        raise ended
    assert left.value.exit_code == status
    told = errors.file.getvalue()
    assert told.startswith(said)
    assert bool(told) == bool(said)


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["--devices", "0"], {}, "--devices must be at least 1; found 0"),
        (["--nodes", "2"], {}, "--nodes 2 needs MASTER_ADDR, MASTER_PORT, NODE_RANK in the"),
        (["--devices", "2", "--method", "gsnr-dropout"], {}, "works in one process only"),
        (
            ["--devices", "4"],
            {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4"},
            "torchrun has started 2 processes on 2 nodes; found --devices 4 --nodes 2",
        ),
    ],
)
def test_numbers_of_processes_that_cannot_be_are_told(
    tmp_path, monkeypatch, arguments, environment, said
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(app, [*TRAIN[2:], *arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()
