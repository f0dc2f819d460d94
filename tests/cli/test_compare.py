"""The command line end to end, with tiny sizes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from domaingrad.bench.methods import listed_methods
from domaingrad.bench.methods.erm import ERM
from domaingrad.cli.app import app

TINY = ["compare", "--data", "linear-toy,colored-digits", "--methods", "erm,and-mask"]
TINY += ["--trials", "2", "--steps", "4"]
RUNS = (1 + 3) * 2 * 2


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def process(*arguments, **options):
    """The installed command in a process group of its own, which hears Ctrl-C."""
    # Where the tests were started by a shell's `&`, it would be ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    command = [Path(sys.executable).with_name("domaingrad"), *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, **options,
    )  # fmt: skip


def test_a_comparison_leaves_table_csv_and_page(tmp_path):
    result = run(*TINY, "--out", tmp_path / "out", "--jobs", 1)
    assert result.exit_code == 0, result.output
    for word in ("ERM", "AND-mask", "sources", "noise", "-90%", "average", "worst"):
        assert word in result.stdout
    table = pd.read_csv(tmp_path / "out" / "results.csv")
    assert len(table) == RUNS * 3  # selection methods
    assert set(table["method"]) == {"erm", "and-mask"}
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "colored-digits" in page
    assert not re.search(r"(src|href|url)\s*[=(]\s*[\"']?(https?:)?//", page)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """By one process, and told as JSON."""
    out = tmp_path_factory.mktemp("compared")
    return out, run(*TINY, "--out", out, "--jobs", 1, "--json")


def test_json_is_alone_on_standard_output_and_agrees_with_the_csv(compared):
    out, result = compared
    document = json.loads(result.stdout)
    table = pd.read_csv(out / "results.csv")
    table = table[table["selection"] == "training-domain-validation"]
    mean = table.query("data == 'linear-toy' and method == 'and-mask'")["held_out_score"].mean()
    row = document["data"]["linear-toy"]["tables"]["training-domain-validation"]["and-mask"]
    assert row["held_out"]["noise"]["mean"] == pytest.approx(mean)


def test_held_out_accuracy_is_not_shown_while_training(compared):
    _, result = compared
    lines = [line for line in result.stderr.splitlines() if "source validation" in line]
    assert len(lines) == RUNS
    assert re.match(r"1/16 erm, linear-toy, trial 1, held out noise, source validation", lines[0])
    assert "left" in lines[0]
    assert not any("held-out" in line for line in lines)


@pytest.mark.slow
def test_processes_give_the_same_numbers_as_one_process(compared, tmp_path):
    child = process(*TINY, "--out", tmp_path, "--jobs", 2)
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 0, errors
    for name in ("results.csv", "checkpoints.csv"):
        one, two = ((out / name).read_bytes() for out in (compared[0], tmp_path))
        assert one == two
        assert one.count(b"\n") > RUNS


def test_what_is_finished_is_not_run_again(tmp_path):
    run(*TINY, "--out", tmp_path, "--jobs", 1)
    before = {path: path.read_bytes() for path in (tmp_path / "runs").glob("*/run.jsonl")}
    result = run(*TINY, "--out", tmp_path, "--jobs", 1)
    assert f"{RUNS} of them found" in result.stderr
    assert len(before) == RUNS
    for path, content in before.items():
        assert path.read_bytes() == content


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_ctrl_c_keeps_finished_runs_and_the_same_command_goes_on(tmp_path, jobs):
    arguments = ["compare", "--data", "colored-digits", "--methods", "erm,and-mask"]
    arguments += ["--trials", "1", "--jobs", jobs, "--out", tmp_path, "--steps", "200"]
    child = process(*arguments, env={**os.environ, "COLUMNS": "200"})
    deadline = time.monotonic() + 120
    while not finished(tmp_path):
        assert time.monotonic() < deadline, "no run has finished"
        assert child.poll() is None, child.communicate()
        time.sleep(0.02)
    os.killpg(child.pid, signal.SIGINT)
    output, errors = child.communicate(timeout=60)
    assert child.returncode == 130, errors
    assert "Traceback" not in errors
    assert "interrupted" in errors
    assert "the same command goes on from here" in errors
    assert "ERM" in output
    kept = finished(tmp_path)
    assert 1 <= kept < 6
    assert len(pd.read_csv(tmp_path / "results.csv")) == 3 * kept
    assert "interrupted" in (tmp_path / "report.html").read_text(encoding="utf-8")
    result = run(*arguments)
    assert f"{kept} of them found" in result.stderr
    assert result.exit_code == 0
    assert finished(tmp_path) == 6


def finished(out):
    """Runs that have ended."""
    records = (out / "runs").glob("*/run.jsonl")
    return sum('"finished"' in path.read_text() for path in records)


def out_of_luck(*_):
    raise ZeroDivisionError("out of luck")


def test_a_failing_run_is_told_and_the_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(ERM, "learner", out_of_luck)
    result = run(*TINY, "--out", tmp_path, "--jobs", 1)
    assert result.exit_code == 1
    assert "ZeroDivisionError: out of luck" in result.stderr
    assert "2 of 2 runs (ZeroDivisionError: out of luck)" in result.stderr
    assert set(pd.read_csv(tmp_path / "results.csv")["method"]) == {"and-mask"}
    assert "out of luck" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "spiral"], "no data set 'spiral'; did you mean 'spirals'"),
        (["--methods", "and_mask"], "no method 'and_mask'; did you mean 'and-mask'"),
        (["--methods", "xyzzy"], "no method 'xyzzy'. Known: erm, and-mask"),
        (["--methods", ","], "at least one name"),
        (["--trials", "0"], "trials: input should be greater than or equal to 1; found 0"),
        (["--steps", "0"], "steps: input should be greater than or equal to 1; found 0"),
        (["--jobs", "0"], "jobs must be at least 1; found 0"),
    ],
)
def test_bad_input_is_told_in_a_sentence(tmp_path, arguments, message):
    result = run("compare", "--out", tmp_path, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr.replace("\n", " ")
    assert "Traceback" not in result.output


def test_an_unwritable_out_is_told_before_training(tmp_path):
    (tmp_path / "file").write_text("in the way")
    found = {"file": "is a file; name a directory", "file/below": "cannot write to "}
    for name, message in found.items():
        started = time.monotonic()
        result = run("compare", "--out", tmp_path / name)
        assert result.exit_code == 2
        assert message in result.stderr
        assert time.monotonic() - started < 5  # the default comparison takes minutes


def test_lists_name_every_data_set_and_method():
    listed = run("list", "data").stdout + run("list", "methods").stdout
    for name in ("spirals", "linear-toy", "colored-digits", "rotated-digits", *listed_methods()):
        assert name in listed


def test_help_teaches_by_example():
    assert "domaingrad compare --data rotated-digits" in run("compare", "--help").stdout
    assert "compare" in run("--help").stdout
