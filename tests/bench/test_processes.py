"""The processes of a sweep: what becomes of them when they, or who has started them, are killed."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from domaingrad.bench.runs import Bundle, Finished, SweepConfig, make_plan
from domaingrad.bench.runs.processes import CONTEXT, _Worker
from domaingrad.bench.sweeping import crew_of

PARENT = """
import time
from ctypes import c_bool
from os import getpid
from domaingrad.bench.runs.processes import CONTEXT, _begin_worker
from concurrent.futures import ProcessPoolExecutor
if __name__ == "__main__":
    news, told = CONTEXT.Pipe(duplex=False)
    stop = CONTEXT.RawValue(c_bool, False)
    pool = ProcessPoolExecutor(1, CONTEXT, _begin_worker, (told, stop, {}))
    print(pool.submit(getpid).result(), flush=True)
    time.sleep(600)
"""


def until(met, seconds=60):
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "Z"


def test_a_worker_that_died_between_two_runs_is_replaced(tmp_path):
    settings = {"steps": 2, "checkpoints": 1, "accelerator": "cpu"}
    request = SweepConfig(("linear-toy",), ("erm",), trials=1, draws=2, settings=settings)
    first, second = make_plan(request)[0].runs
    worker = _Worker(CONTEXT.RawValue("b", 0), {})
    try:
        for run in (first, second):
            worker.begin(Bundle((run,)), {run.key: tmp_path / run.key}, keep_models=False)
            found = []
            until(lambda found=found: (found.append(worker.ended()), found[-1])[1] is not None)
            bundle, (ended,) = found[-1]
            assert bundle.runs == (run,)
            assert isinstance(ended, Finished)
            (process,) = worker._pool._processes.values()
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            until(
                lambda: worker._pool._broken
            )  # else the run would be lost, and its turn come again
    finally:
        worker.close()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_an_idle_worker_ends_with_a_sweep_that_is_killed(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    with subprocess.Popen(
        [sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE, text=True
    ) as parent:
        worker = int(parent.stdout.readline())
        parent.kill()
    until(lambda: gone(worker), seconds=20)


def test_workers_get_the_gpus_that_are_visible(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert crew_of(None, False, None, 1, 9).devices == ("0", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-8a7f")
    crew = crew_of(None, False, None, 2, 9)
    assert (crew.jobs, crew.devices) == (4, ("2", "GPU-8a7f"))
    assert crew.environment(3) == {"CUDA_VISIBLE_DEVICES": "GPU-8a7f"}
    assert crew_of(3, False, "cpu", 1, 9).devices == ()
