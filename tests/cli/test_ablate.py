"""`domaingrad ablate gsnr` end to end, with tiny sizes."""

import re

import pandas as pd
import pytest
from typer.testing import CliRunner

from domaingrad.bench.methods import ABLATIONS
from domaingrad.bench.runs import RunDirectory, SweepDirectory
from domaingrad.cli.app import app

TINY = ["ablate", "gsnr", "--data", "colored-digits", "--trials", "2", "--steps", "2"]


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def ablated(tmp_path_factory):
    out = tmp_path_factory.mktemp("ablation")
    result = run(*TINY, "--out", out, "--jobs", 1)
    assert result.exit_code == 0, result.output
    return out, result


def test_all_selections_are_compared_with_fixed_and_learned_ratios(ablated):
    out, result = ablated
    table = pd.read_csv(out / "results.csv")
    assert set(table["method"]) == {"erm", *(m.info.name for m in ABLATIONS["gsnr"])}
    assert len(table.query("selection == 'training-domain-validation'")) == 9 * 3 * 2
    for words in ("GSNR dropout, learned ratio", "Drop random, fixed ratio", "paired over trials"):
        assert words in result.stdout
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Paired over trials" in page
    assert "Told by the methods themselves" in page
    assert not re.search(r"(src|href|url)\s*[=(]\s*[\"']?(https?:)?//", page)


def test_learned_ratios_are_in_the_records_and_fixed_ones_are_not(ablated):
    directory = SweepDirectory.existing(ablated[0])
    for planned in directory.plan().runs:
        told = RunDirectory(directory.place(planned.key)).checkpoints()[-1].metrics
        learned = planned.config.method in {
            "gsnr-dropout", "drop-low-gsnr", "drop-high-gradient", "drop-random",
        }  # fmt: skip
        assert set(told) == ({f"ratio of {i}.weight" for i in (1, 3, 5)} if learned else set())
        assert all(0 < p < 0.9 for p in told.values())


def test_what_is_kept_can_be_rescaled(ablated, tmp_path):
    """By the selection without a draw, so that nothing else differs."""
    arguments = ["--rescale", "--trials", "1", "--out", tmp_path, "--jobs", 1]
    result = run(*TINY, *arguments)
    assert result.exit_code == 0, result.output
    assert "GSNR dropout, fixed ratio, rescaled (ratio 0.3333)" in result.stdout
    assert set(pd.read_csv(tmp_path / "results.csv")["method"]) == {
        "erm",
        *(m.info.name for m in ABLATIONS["gsnr, rescaled"]),
    }
    losses = []
    for out, method in (
        (tmp_path, "gsnr-dropout-fixed-rescaled"),
        (ablated[0], "gsnr-dropout-fixed"),
    ):
        directory = SweepDirectory.existing(out)
        first = next(each for each in directory.plan().runs if each.config.method == method)
        losses.append(RunDirectory(directory.place(first.key)).checkpoints()[-1].loss)
    assert losses[0] != losses[1]


def test_the_methods_are_there_to_compare(tmp_path):
    arguments = ["compare", "--data", "linear-toy", "--methods", "erm,gsnr-dropout-fixed"]
    result = run(*arguments, "--trials", "1", "--steps", "3", "--out", tmp_path, "--jobs", 1)
    assert result.exit_code == 0, result.output
    assert "GSNR dropout, fixed ratio (ratio 0.3333)" in result.stdout


def test_results_are_there_as_markdown(ablated):
    out, _ = ablated
    lines = (out / "results.md").read_text(encoding="utf-8").splitlines()
    widths = {line.count("|") for line in lines if line.startswith("| GSNR dropout, fixed")}
    assert widths == {8, 6, 5}  # the scores; the paired differences; the selection methods
    table = pd.read_csv(out / "results.csv").query("method == 'drop-random-fixed'")
    table = table[table["selection"] == "training-domain-validation"]
    mean = 100 * table[table["held_out"] == "+80%"]["held_out_score"].mean()
    row = next(line for line in lines if line.startswith("| Drop random, fixed ratio (ratio"))
    assert row.split("|")[6].strip().startswith(f"{mean:.1f}±")
