"""A sweep on a real Ray cluster of several nodes, one of them lost in mid-sweep."""

import dataclasses
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from domaingrad.bench.domains import DataError
from domaingrad.bench.runs import (
    Bundle,
    Failed,
    Finished,
    Lost,
    Progress,
    RayCrew,
    RunDirectory,
    SweepConfig,
    execute,
    make_plan,
)
from domaingrad.bench.runs.events import ATTEMPTS, Undone
from domaingrad.cli.app import app

ray = pytest.importorskip("ray", reason="needs the extra ray")
pytestmark = pytest.mark.filterwarnings("ignore")

SWEEP = ["sweep", "--data", "colored-digits", "--methods", "erm", "--trials", "1", "--draws", "1"]
SWEEP += ["--steps", "1500", "--checkpoints", "30", "--accelerator", "cpu", "--stack", "off"]


def records(out):
    found = {path.name: RunDirectory(path) for path in sorted((out / "runs").iterdir())}
    return {key: (run.checkpoints(), run.unseal()) for key, run in found.items()}


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    # The head carries out nothing, so that it is the others that are lost.
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def crew(cluster):
    yield RayCrew.connected(cluster.address, None, False, per_gpu=2)
    ray.shutdown()


def test_a_crew_is_as_large_as_the_cluster_or_as_it_may_be(cluster, crew):
    assert crew == RayCrew(jobs=2)  # no GPU: nothing to share
    assert RayCrew.connected(cluster.address, 1, True, None) == RayCrew(1, 1, True)


@pytest.mark.slow
def test_news_and_failures_come_back_and_the_rest_goes_on(crew, tmp_path):
    settings = {"steps": 1500, "checkpoints": 1, "accelerator": "cpu"}
    request = SweepConfig(("colored-digits",), ("erm",), trials=1, draws=1, settings=settings)
    first, second, third = make_plan(request)[0].runs
    elsewhere = dataclasses.replace(third, key="elsewhere")
    places = {run.key: tmp_path / "runs" / run.key for run in (first, second)}
    places["elsewhere"] = tmp_path / "not-shared" / "x"
    changed = dataclasses.replace(second, config=dataclasses.replace(second.config, steps=7))
    (tmp_path / "runs").mkdir()
    events = []
    execute(
        [Bundle((run,)) for run in (changed, elsewhere, first)],
        places.__getitem__,
        crew,
        events.append,
    )

    failed = {event.run.key: event.cause for event in events if isinstance(event, Failed)}
    assert set(failed) == {second.key, "elsewhere"}
    assert "have changed since the sweep was planned" in failed[second.key]
    assert f"{tmp_path / 'not-shared'} or" in failed["elsewhere"]
    assert "a file system that all nodes share" in failed["elsewhere"]
    assert [event.run.key for event in events if isinstance(event, Finished)] == [first.key]
    # Steps are heard of between checkpoints, of which there is but one.
    steps = [event.step for event in events if isinstance(event, Progress) and event.run == first]
    assert any(0 < step < 1500 for step in steps)
    assert steps == sorted(steps)


@pytest.mark.slow
def test_a_sweep_survives_the_loss_of_a_node_and_leaves_what_a_local_one_leaves(cluster, tmp_path):
    lost = next(iter(cluster.worker_nodes))
    command = [Path(sys.executable).with_name("domaingrad"), *SWEEP, "--launcher", "ray"]
    child = subprocess.Popen(
        [*command, "--address", cluster.address, "--out", "ray"], cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 180

    def under_way():
        paths = (tmp_path / "ray" / "runs").glob("*/run.jsonl")
        return sum(2 <= path.read_text().count("\n") < 30 for path in paths)

    while under_way() < 2:
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline, "no two runs are under way"
        time.sleep(0.05)
    cluster.remove_node(lost)
    _, errors = child.communicate(timeout=240)
    assert child.returncode == 0, errors
    assert "2 at a time on the Ray cluster" in errors
    assert errors.count("Lost its process") == 1
    assert "3/3 " in errors  # the one live view has heard of all of them
    local = CliRunner().invoke(app, [*SWEEP, "--jobs", "1", "--out", str(tmp_path / "local")])
    assert local.exit_code == 0, local.output
    assert records(tmp_path / "ray") == records(tmp_path / "local")
    for name in ("results.csv", "checkpoints.csv"):
        found = (tmp_path / "ray" / name).read_bytes()
        assert found == (tmp_path / "local" / name).read_bytes()
    shutil.rmtree(tmp_path / "local")


def test_a_run_that_is_lost_again_and_again_has_failed():
    request = SweepConfig(("colored-digits",), ("erm",), trials=1, draws=1)
    run, other, _ = make_plan(request)[0].runs
    undone = Undone([Bundle((run,)), Bundle((other,))])
    for _ in range(ATTEMPTS - 1):
        assert undone.take() == Bundle((run,))
        assert list(undone.after(Bundle((run,)), [Lost(run)])) == [Lost(run)]
    assert undone.take() == Bundle((run,))
    (failed,) = undone.after(Bundle((run,)), [Lost(run)])
    assert f"{ATTEMPTS} times" in failed.cause
    assert undone.take() == Bundle((other,))
    assert not undone


def test_no_cluster_at_an_address():
    with pytest.raises(DataError, match=r"no Ray cluster at 127\.0\.0\.1:1 .*give the address"):
        RayCrew.connected("127.0.0.1:1", None, False, None)


def test_an_address_without_ray_is_refused(tmp_path):
    result = CliRunner().invoke(app, [*SWEEP, "--address", "x", "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "take the launcher ray" in result.stderr
