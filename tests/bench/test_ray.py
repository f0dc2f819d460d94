"""A sweep on a real Ray cluster of several nodes, one of them lost in mid-sweep."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from domaingrad.bench.runs import RunDirectory
from domaingrad.cli.app import app

ray = pytest.importorskip("ray", reason="needs the extra ray")
pytestmark = pytest.mark.filterwarnings("ignore")

SWEEP = ["sweep", "--data", "colored-digits", "--methods", "erm", "--trials", "1", "--draws", "1"]
SWEEP += ["--steps", "1500", "--checkpoints", "30", "--accelerator", "cpu"]


def records(out):
    found = {path.name: RunDirectory(path) for path in sorted((out / "runs").iterdir())}
    return {key: (run.checkpoints(), run.unseal()) for key, run in found.items()}


@pytest.fixture
def cluster():
    from ray.cluster_utils import Cluster

    # The head carries out nothing, so that it is the others that are lost.
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    yield cluster
    cluster.shutdown()


def test_a_sweep_survives_the_loss_of_a_node_and_leaves_what_a_local_one_leaves(cluster, tmp_path):
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    command = [Path(sys.executable).with_name("domaingrad"), *SWEEP, "--launcher", "ray"]
    child = subprocess.Popen(
        [*command, "--address", cluster.address, "--out", tmp_path / "ray"],
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
    cluster.remove_node(nodes[0])
    _, errors = child.communicate(timeout=240)
    assert child.returncode == 0, errors
    assert errors.count("Lost its process") == 1
    assert "3/3 " in errors  # the one live view has heard of all of them
    local = CliRunner().invoke(app, [*SWEEP, "--jobs", "1", "--out", str(tmp_path / "local")])
    assert local.exit_code == 0, local.output
    assert records(tmp_path / "ray") == records(tmp_path / "local")
    for name in ("results.csv", "checkpoints.csv"):
        found = (tmp_path / "ray" / name).read_bytes()
        assert found == (tmp_path / "local" / name).read_bytes()


def test_an_address_without_ray_is_refused(tmp_path):
    result = CliRunner().invoke(app, [*SWEEP, "--address", "x", "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "add --launcher ray" in result.stderr
