"""train by several processes: what is told, by which of them, and with which status."""

import io

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from domaingrad.bench.runs.ranks import FailedElsewhereError, LostProcessError
from domaingrad.cli.app import app
from domaingrad.cli.processes import ended_together

TRAIN = ["train", "--data", "colored-digits", "--hold-out=-90%", "--accelerator", "cpu"]


@pytest.mark.parametrize(
    ("ended", "local_rank", "status", "said"),
    [
        (FailedElsewhereError("the disk is full"), 0, 2, "Error: on another process: the disk is"),
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
        (["--devices", "0"], {}, "devices must be at least 1; found 0"),
        (["--nodes", "2"], {}, "2 nodes need MASTER_ADDR, MASTER_PORT, NODE_RANK in the"),
        (["--devices", "2", "--method", "gsnr-dropout"], {}, "works in one process only"),
        (
            ["--devices", "4"],
            {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4"},
            "torchrun has started 2 processes on 2 nodes; found devices 4 and nodes 2",
        ),
    ],
)
def test_numbers_of_processes_that_cannot_be_are_told(
    tmp_path, monkeypatch, arguments, environment, said
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(app, [*TRAIN, *arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()
