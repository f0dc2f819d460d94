"""What the tutorials show works as it is written there, from a file beside the command."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

PAGES = Path(__file__).parents[2] / "docs" / "tutorials"
BLOCKS = [
    block
    for page in sorted(PAGES.glob("new_*.md"))
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
]


def block(words: str) -> str:
    (found,) = [text for text in BLOCKS if words in text]
    return found


def domaingrad(folder, *arguments):
    command = Path(sys.executable).with_name("domaingrad")
    return subprocess.run(
        [command, *map(str, arguments)], cwd=folder, capture_output=True, text=True, check=False
    )


SWEEP = ["sweep", "--draws", 2, "--trials", 1, "--steps", 4, "--checkpoints", 2]
SWEEP += ["--accelerator", "cpu", "--out", "out", "--jobs", 2]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A rule, a method and a data set of plug-ins, trained by two spawned workers."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "mine.py").write_text(block("@register.rule"))
    (folder / "risks.py").write_text(block("@register.method"))
    (folder / "shifted.py").write_text(block("register.data_set"))
    done = domaingrad(
        folder, *SWEEP, "--data", "shifted", "--methods", "erm,share,range",
        "--plugin", "mine,risks", "--plugin", "shifted",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def test_a_sweep_knows_what_plug_ins_bring_along(swept):
    table = pd.read_csv(swept / "out" / "results.csv")
    assert set(table["method"]) == {"erm", "share", "range"}
    assert set(table["held_out"]) == {"left", "middle", "right"}
    assert "Range" in (swept / "out" / "report.html").read_text(encoding="utf-8")


def test_a_report_is_made_without_naming_them_again(swept):
    done = domaingrad(swept, "report", "out", "--format", "markdown")
    assert done.returncode == 0, done.stderr
    assert "Range" in done.stdout


@pytest.mark.slow
def test_another_method_extends_a_sweep_and_another_source_of_one_does_not_end_the_others(swept):
    here = swept.with_name("again")
    shutil.copytree(swept, here)
    again = [*SWEEP, "--data", "shifted", "--plugin", "mine,risks,shifted"]
    same = domaingrad(here, *again, "--methods", "erm,share,range")
    assert "To be done: 0 runs" in same.stderr, same.stderr
    (here / "other.py").write_text(block("@register.method").replace('"range"', '"range2"'))
    more = [*again, "--plugin", "other", "--methods", "erm,share,range,range2"]
    extended = domaingrad(here, *more, "--extend")
    assert extended.returncode == 0, extended.stderr
    assert "To be done: 6 runs" in extended.stderr
    changed = block("@register.rule").replace("2 * self.share - 1", "2 * self.share - 1.5")
    (here / "mine.py").write_text(changed)
    other = domaingrad(here, *more)
    assert other.returncode == 2
    assert "code of share is" in other.stderr
    assert "code of range is" not in other.stderr


def test_a_reader_of_a_plug_in_is_trained_on_with_its_own_options(tmp_path):
    (tmp_path / "sensing.py").write_text(block("register.reader"))
    (tmp_path / "hall").mkdir()
    x = torch.randn(3, 60, 4, generator=torch.Generator().manual_seed(0))
    for number, each in enumerate(x):
        torch.save((each, (each[:, 0] > 0).long()), tmp_path / "hall" / f"s{number}.pt")
    settings = {"data": "sensors:hall", "hold_out": "s2", "plugins": ["sensing"], "steps": 60}
    settings |= {"data_options": {"unit": 2.0}, "accelerator": "cpu"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    done = domaingrad(tmp_path, "train", "--config", "config.yaml", "--out", "out", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["held_out"] > 0.7
    written = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert written["data_options"] == {"unit": 2.0}
    seen = domaingrad(
        tmp_path, "inspect", "out", "--samples", 8
    )  # which reads data and model again
    assert seen.returncode == 0, seen.stderr
    settings["data_options"] = {"units": 2.0}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    wrong = domaingrad(tmp_path, "train", "--config", "config.yaml", "--out", "other")
    assert wrong.returncode == 2
    assert "data of the kind sensors take no units; they take unit" in wrong.stderr


def test_a_metric_of_a_plug_in_scores_a_run(tmp_path):
    (tmp_path / "worst.py").write_text(block("@register.metric"))
    options = ["--metric", "worst-class", "--plugin", "worst", "--steps", 20, "--checkpoints", 2]
    done = domaingrad(
        tmp_path, "train", "--data", "colored-digits", "--hold-out=-90%", *options,
        "--accelerator", "cpu", "--out", "out", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    best = 100 * json.loads(done.stdout)["source_validation"]
    assert f"source validation worst class {best:.1f} %" in done.stderr


def test_a_plug_in_that_is_not_there_is_told(tmp_path):
    done = domaingrad(tmp_path, *SWEEP, "--data", "spirals", "--plugin", "absent")
    assert done.returncode == 2
    assert "the plug-in absent cannot be imported" in done.stderr
