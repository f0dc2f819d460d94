"""``benchmarks/methods_cost.py`` with a tiny network: a row for each method, none that fails."""

import subprocess
import sys
from pathlib import Path

from domaingrad.bench.methods import listed_methods

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "methods_cost.py"


def test_every_listed_method_has_a_row_with_a_ratio() -> None:
    command = [sys.executable, SCRIPT, "--tiny", "--rounds", "1", "--threads", "1"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    rows = [line.split("|")[2:5] for line in run.stdout.splitlines() if line.startswith("| MLP")]
    assert [name.strip() for name, *_ in rows] == list(listed_methods())
    assert all(float(ratio) > 0 for _, _, ratio in rows)
