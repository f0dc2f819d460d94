"""Whatever ends a command, and whenever: no process of it is left, and nothing listens outside."""

import inspect
import os
import signal
import sys
import time

import pytest

from domaingrad.bench.runs import meeting, ranks

from .processes import LOOPBACK, end_all, listening, start, started_by, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

TWO = ["train", "--data", "rotated-digits", "--hold-out", "0°", "--steps", 20_000, "--batch", 3,
       "--checkpoints", 2000, "--accelerator", "cpu", "--devices", 2, "--out"]  # fmt: skip
SECONDS = 30
"""In which a process ends; it has its grace, and a machine at work on other things."""


@pytest.fixture
def mark(tmp_path):
    yield str(tmp_path)
    end_all(str(tmp_path))


def first_steps(out):
    return (out / "run.jsonl").exists


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("when", ["as the second is there", "as it meets", "as they train"])
def test_the_others_end_with_the_first_process(tmp_path, mark, how, when):
    out = tmp_path / "run"
    first = start([*TWO, out], mark, TMPDIR=str(tmp_path))
    moment = {
        "as the second is there": lambda: len(started_by(mark)) == 2,
        "as it meets": lambda: list(tmp_path.glob("domaingrad-*/here-*")),
        "as they train": first_steps(out),
    }[when]
    assert wait_until(moment, 90), first.communicate()
    os.kill(first.pid, how)
    assert wait_until(lambda: not started_by(mark), SECONDS)
    said, _ = first.communicate()
    assert "Traceback" not in said


@pytest.mark.slow
def test_processes_of_one_machine_listen_on_loopback_alone(tmp_path, mark):
    out = tmp_path / "run"
    with start([*TWO, out], mark):
        try:
            assert wait_until(first_steps(out), 90)
            both = started_by(mark)
            found = set().union(*map(listening, both))
        finally:
            end_all(mark)
    assert len(both) == 2
    assert found <= LOOPBACK


def test_nothing_is_unpickled_that_other_processes_send():
    for module in (ranks, meeting):
        source = inspect.getsource(module)
        assert "pickle" not in source
        assert "_object" not in source.replace("no object", "")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "line",
    [
        ["compare", "--data", "spirals", "--methods", "erm", "--steps", 5000, "--jobs", 2, "--out"],
        ["ablate", "gsnr", "--data", "spirals", "--steps", 5000, "--jobs", 2, "--out"],
        ["sweep", "--data", "spirals", "--methods", "erm", "--jobs", 1, "--steps", 5000, "--out"],
        ["fas-synthetic", "--subjects", 200],
    ],
    ids=lambda line: line[0],
)
def test_an_interrupted_command_says_so_and_leaves_no_process(tmp_path, mark, how, line):
    process = start([*line, tmp_path / "out"], mark)

    def begun():
        written = list((tmp_path / "out").rglob("*"))
        return any(path.suffix in (".jsonl", ".jpg") for path in written)

    assert wait_until(begun, 90), process.communicate()
    time.sleep(0.2)
    os.kill(process.pid, how)
    said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 130, said
    assert "Interrupted" in said
    assert "Traceback" not in said
    assert wait_until(lambda: not started_by(mark), SECONDS)
