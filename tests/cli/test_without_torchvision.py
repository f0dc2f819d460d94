"""A table is trained on and evaluated where torchvision and torchmetrics cannot be imported."""

import subprocess
import sys

CODE = """
import sys
from typer.testing import CliRunner
broken = ("torchvision", "torchmetrics")
sys.modules |= dict.fromkeys(broken)  # importing them raises
from domaingrad.cli.app import app
for command in sys.argv[1:]:
    result = CliRunner().invoke(app, command.split())
    assert result.exit_code == 0, result.output
    print(result.stdout)
"""


def test_a_table_needs_neither_torchvision_nor_torchmetrics(tmp_path):
    rows = [f"site-{at % 3},{at / 7:.3f},{'yn'[at % 2]}" for at in range(90)]
    (tmp_path / "people.csv").write_text("\n".join(["site,age,ill", *rows]))
    told = "--target ill --domain site --hold-out site-2 --steps 4 --checkpoints 1"
    done = subprocess.run(
        [
            sys.executable, "-c", CODE,
            f"train --data people.csv {told} --accelerator cpu --out run", "evaluate run",
        ],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "site-2, held out" in done.stdout
    assert "balanced accuracy" in done.stdout
