"""sweep and report by the command line: plans, kills, failures, bad input."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from domaingrad.bench import sweeping
from domaingrad.bench.methods.erm import ERM
from domaingrad.bench.runs import RunDirectory, SweepDirectory, attempts
from domaingrad.cli.app import app

TINY = ["sweep", "--data", "colored-digits", "--methods", "erm,sand-mask", "--trials", 1]
TINY += ["--draws", 2, "--steps", 4, "--checkpoints", 2, "--accelerator", "cpu"]
RUNS = 3 * 2 * 2
NEEDS_PROC = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="finds the processes in /proc"
)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def process(*arguments):
    """The installed command in a process group of its own."""
    command = [Path(sys.executable).with_name("domaingrad"), *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def workers_of(pid):
    """Processes of the pool: children that are busy, not the resource tracker."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                command = (entry / "cmdline").read_text()
            except (OSError, IndexError):
                continue
            if parent == pid and "spawn_main" in command:
                found.append(int(entry.name))
    return found


def until(happened, child):
    deadline = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < deadline
        assert child.poll() is None, child.communicate()
        time.sleep(0.01)


def records(out):
    """All that the runs have recorded, by key."""
    found = {path.name: RunDirectory(path) for path in sorted((out / "runs").iterdir())}
    return {key: (run.checkpoints(), run.unseal()) for key, run in found.items()}


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep")
    result = run(*TINY, "--out", out, "--jobs", 1)
    assert result.exit_code == 0, result.output
    return out, result


def test_the_plan_is_told_before_the_runs_and_the_tables_after(swept):
    out, result = swept
    told = result.stderr
    assert "12 runs of 4 steps (2 methods × 2 draws × 1 trials × 3 held-out domains)" in told
    assert "To be done: 12 runs, 1 at a time, about" in told
    assert "on disk at the end" in told
    assert "held out -90%, source validation" in told
    for word in ("oracle, last checkpoint", "SAND-mask", "paired over trials", "worst"):
        assert word in result.stdout
    files = {path.name for path in out.iterdir()}
    assert files >= {"report.html", "results.md", "results.tex", "results.csv", "checkpoints.csv"}
    assert len(records(out)) == RUNS


def test_models_and_states_are_not_kept_unless_asked_for(swept, tmp_path):
    out, _ = swept
    assert {path.name for path in out.glob("runs/*/*")} == {
        "config.yaml", "run.jsonl", "held_out.jsonl", "lock",
    }  # fmt: skip
    small = [*TINY, "--methods", "erm", "--draws", 1, "--out", tmp_path, "--jobs", 1]
    assert run(*small, "--keep-models").exit_code == 0
    (one, *_) = (tmp_path / "runs").iterdir()
    assert run("inspect", one, "--samples", 8).exit_code == 0


def test_a_dry_run_leaves_nothing(tmp_path):
    result = run(*TINY, "--out", tmp_path / "new", "--dry-run")
    assert result.exit_code == 0
    assert "To be done: 12 runs" in result.stderr
    assert not (tmp_path / "new").exists()


def test_a_run_of_a_sweep_is_the_run_that_train_makes(swept, tmp_path):
    out, _ = swept
    key = next(iter(records(out)))
    again = run("train", "--config", out / "runs" / key, "--out", tmp_path / key)
    assert again.exit_code == 0, again.output
    assert RunDirectory(tmp_path / key).unseal() == RunDirectory(out / "runs" / key).unseal()


LONG = ["sweep", "--data", "colored-digits", "--methods", "sand-mask", "--trials", 1]
LONG += ["--draws", 1, "--steps", 200, "--checkpoints", 20, "--accelerator", "cpu"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The sweep that the others are killed in."""
    out = tmp_path_factory.mktemp("whole")
    assert run(*LONG, "--out", out, "--jobs", 1).exit_code == 0
    return out


def under_way(out):
    """Runs with a checkpoint and no end."""
    return [
        path
        for path in (out / "runs").glob("*/run.jsonl")
        if 2 <= path.read_text().count("\n") < 20
    ]


@pytest.mark.slow
def test_a_killed_sweep_goes_on_to_the_same_digits(whole, tmp_path):
    child = process(*LONG, "--out", tmp_path, "--jobs", 2)
    until(lambda: under_way(tmp_path), child)
    os.kill(child.pid, signal.SIGKILL)  # its workers are left behind, and must give way
    child.communicate()
    assert under_way(tmp_path) or len(records(tmp_path)) < 3
    result = run(*LONG, "--out", tmp_path, "--jobs", 1)
    assert result.exit_code == 0, result.output
    assert records(tmp_path) == records(whole)
    for name in ("results.csv", "checkpoints.csv"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.slow
@NEEDS_PROC
def test_a_killed_worker_costs_no_more_than_its_steps_since_the_last_checkpoint(whole, tmp_path):
    child = process(*LONG, "--out", tmp_path, "--jobs", 2)
    until(lambda: under_way(tmp_path), child)
    victim = workers_of(child.pid)[0]
    os.kill(victim, signal.SIGKILL)
    _, errors = child.communicate(timeout=200)
    assert child.returncode == 0, errors
    assert errors.count("Lost its process") == 1
    assert records(tmp_path) == records(whole)
    assert (tmp_path / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()


DEADLY = """
import os, sys
if "spawn_main" in " ".join(sys.orig_argv):
    from domaingrad.bench.methods.erm import ERM

    ERM.learner = lambda *_: os._exit(1)
"""
"""A method that takes its process with it."""


@pytest.mark.slow
def test_a_run_that_kills_its_process_each_time_fails_and_the_others_go_on(tmp_path):
    # A worker learns of the method by unpickling nothing, so it is told by a site of its own.
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(DEADLY)
    paths = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    words = "compare --data linear-toy --methods erm,and-mask --trials 1 --steps 3 --jobs 2 --out"
    child = subprocess.run(
        [Path(sys.executable).with_name("domaingrad"), *words.split(), tmp_path / "out"],
        env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=200,
        check=False,
    )  # fmt: skip
    assert child.returncode == 1, child.stderr
    assert "it lost its process 3 times" in child.stderr
    assert child.stderr.count("Lost its process") == 2
    assert set(pd.read_csv(tmp_path / "out" / "results.csv")["method"]) == {"and-mask"}


def out_of_luck(*_):
    raise ZeroDivisionError("out of luck")


def test_a_failed_run_is_recorded_left_alone_and_tried_again_when_asked(tmp_path, monkeypatch):
    small = [*TINY, "--draws", 1, "--out", tmp_path, "--jobs", 1]
    monkeypatch.setattr(sweeping, "measure", lambda *_: sweeping.Cost(1.0, 1, 1))
    with monkeypatch.context() as broken:
        broken.setattr(ERM, "learner", out_of_luck)
        first = run(*small)
    assert first.exit_code == 1
    assert first.stderr.count("ZeroDivisionError: out of luck") >= 3
    failures = list((tmp_path / "failures").iterdir())
    assert len(failures) == 3
    assert "Traceback" in failures[0].read_text()
    again = run(*small)
    assert again.exit_code == 1
    assert "3 runs have failed before" in again.stderr
    assert "ERM, held out +90%: 1 of 1 runs (ZeroDivisionError: out of luck)" in again.stderr
    mended = run(*small, "--retry-failed")
    assert mended.exit_code == 0, mended.output
    assert not list((tmp_path / "failures").iterdir())


def test_a_full_disk_ends_the_sweep_and_room_lets_it_go_on(tmp_path, monkeypatch):
    small = [*TINY, "--draws", 1, "--out", tmp_path, "--jobs", 1]
    flush, calls = os.fsync, iter(range(10_000))

    def full(file):
        if next(calls) > 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(file)

    with monkeypatch.context() as small_disk:
        small_disk.setattr(os, "fsync", full)
        result = run(*small)
    assert result.exit_code == 1
    assert "the disk is full" in result.stderr
    assert "Traceback" not in result.stderr
    again = run(*small)
    assert again.exit_code == 0, again.output
    assert len(records(tmp_path)) == 6


def test_another_sweep_in_the_directory_is_refused_and_a_larger_one_extends(swept, tmp_path):
    out = tmp_path / "sweep"
    small = [*TINY, "--draws", 1, "--jobs", 1, "--out", out]
    assert run(*small).exit_code == 0
    before = records(out)
    other = run(*small, "--steps", 5)
    assert other.exit_code == 2
    assert "steps is 4 there and 5 here" in other.stderr
    assert "Choose another directory" in other.stderr
    larger = run(*small, "--draws", 2)
    assert larger.exit_code == 2
    assert "draws is 1 there and 2 here. To go on with it, extend it" in larger.stderr
    more = run(*small, "--methods", "agr-sum", "--seed", 1)
    assert more.exit_code == 2
    assert (
        "methods is ('erm', 'sand-mask') there and ('erm', 'sand-mask', 'agr-sum')" in more.stderr
    )
    assert "seed is 0 there and 1 here" in more.stderr
    assert records(out) == before
    extended = run(*small, "--draws", 2, "--extend")
    assert extended.exit_code == 0, extended.output
    assert "6 of them found" in extended.stderr
    assert records(out) == records(swept[0])


def test_more_selection_methods_extend_a_sweep_without_any_run(tmp_path):
    small = [*TINY, "--draws", 1, "--jobs", 1, "--out", tmp_path]
    assert run(*small, "--selection", "training-domain-validation").exit_code == 0
    before = records(tmp_path)
    more = run(*small, "--selection", "training-domain-validation,oracle-last", "--extend")
    assert more.exit_code == 0, more.output
    assert "oracle, last checkpoint" in more.stdout
    assert records(tmp_path) == before
    other = run("compare", "--data", "linear-toy", "--steps", 2, "--out", tmp_path)
    assert other.exit_code == 2
    assert "holds a sweep, which compare would put another plan upon" in other.stderr


def test_draws_of_which_nothing_is_drawn_are_runs_of_their_own(tmp_path):
    fixed = ["--learning-rate", 0.01, "--weight-decay", 0, "--batch", 8]
    small = [*TINY, "--methods", "erm", "--draws", 3, *fixed, "--out", tmp_path, "--jobs", 1]
    result = run(*small)
    assert result.exit_code == 0, result.output
    assert len(records(tmp_path)) == 3 * 3 * 2


def table(path, target):
    """A table whose domains are called what breaks tables, pictures and pages elsewhere."""
    rows = ["x,z,site,y"]
    for number in range(90):
        site = ("[/x]", "$q_{$", "a|b")[number % 3]
        rows.append(f"{number % 7},{number % 5},{site},{target(number)}")
    path.write_text("\n".join(rows))
    return ["--data", path, "--target", "y", "--domain", "site", "--steps", 3, "--jobs", 1]


def test_odd_names_of_domains_are_printed_as_they_are(tmp_path):
    data = table(tmp_path / "odd.csv", lambda number: "yes" if number % 2 else "no")
    out = tmp_path / "out"
    result = run("sweep", *data, "--draws", 1, "--trials", 1, "--out", out, "--keep-models")
    assert result.exit_code == 0, result.output
    for name in ("[/x]", "$q_{$", "a|b"):
        assert name in result.stdout
    (head,) = {
        line for line in (out / "results.md").read_text().splitlines() if "held out: a" in line
    }
    assert r"a\|b" in head
    shown = run("inspect", next((out / "runs").iterdir()), "--samples", 8)
    assert shown.exit_code == 0, shown.output


def test_numbers_that_diverge_are_told_in_every_form(tmp_path):
    data = table(tmp_path / "numbers.csv", lambda number: 0.5 * number)
    small = ["sweep", *data, "--draws", 1, "--trials", 2, "--task", "regression"]
    small += ["--methods", "erm,and-mask", "--learning-rate", 1e30, "--out", tmp_path / "out"]
    result = run(*small, "--json")
    assert result.exit_code == 0, result.output
    tables = json.loads(result.stdout)["data"]["numbers"]["tables"]
    assert tables["training-domain-validation"]["erm"]["average"]["mean"] is None
    shown = run("report", tmp_path / "out")
    assert "−∞" in shown.stdout
    assert "nan" not in shown.stdout
    assert "R² -inf" in result.stderr


def test_damaged_records_are_missing_in_the_report_and_done_again(swept, tmp_path):
    out = tmp_path / "damaged"
    shutil.copytree(swept[0], out)
    cut, lost, odd, garbled = sorted((out / "runs").iterdir())[:4]
    sealed = cut / "held_out.jsonl"
    sealed.write_bytes(sealed.read_bytes()[:-20])
    (lost / "held_out.jsonl").unlink()
    (odd / "run.jsonl").write_text("null\n")
    (garbled / "run.jsonl").write_bytes(b"\x00\x00\xff\n")
    part = run("report", out)
    assert part.exit_code == 0, part.output
    assert part.stderr.count("its records are damaged") >= 1
    assert "*" in part.stdout
    again = run(*TINY, "--out", out, "--jobs", 1)
    assert again.exit_code == 0, again.output
    for path in (out / "runs").glob("*.damaged-1"):
        shutil.rmtree(path)
    assert records(out) == records(swept[0])


def test_data_that_change_under_a_sweep_fail_its_runs(tmp_path, monkeypatch):
    path = tmp_path / "table.csv"
    data = table(path, lambda number: "yes" if number % 2 else "no")
    attempts._data.cache_clear()

    def changed_meanwhile(*_):
        path.write_text(path.read_text().replace("6,", "5,", 1))
        return sweeping.Cost(1.0, 1, 1)

    monkeypatch.setattr(sweeping, "measure", changed_meanwhile)
    result = run("sweep", *data, "--draws", 1, "--trials", 1, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "the data, the weights or the code have changed since the sweep was planned" in (
        result.stderr
    )


def test_two_sweeps_in_one_directory_are_refused(tmp_path):
    assert run(*TINY, "--draws", 1, "--out", tmp_path, "--jobs", 1).exit_code == 0
    with SweepDirectory(tmp_path).alone():
        second = run(*TINY, "--draws", 1, "--out", tmp_path, "--jobs", 1)
    assert second.exit_code == 2
    assert "another sweep is at work" in second.stderr


def test_a_report_of_nothing_and_of_a_part(swept, tmp_path):
    nothing = run("report", tmp_path)
    assert (nothing.exit_code, "is no sweep" in nothing.stderr) == (2, True)
    directory = SweepDirectory(tmp_path)
    directory.replace(SweepDirectory.existing(swept[0]).plan())
    empty = run("report", tmp_path)
    assert empty.exit_code == 0, empty.output
    assert "2 of 2 runs (not run)" in empty.stderr
    assert "–" in empty.stdout
    assert "Missing" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("form", ["markdown", "latex"])
def test_the_report_is_what_the_sweep_wrote(swept, tmp_path, form):
    out, _ = swept
    result = run("report", out, "--format", form, "--out", tmp_path / "elsewhere")
    assert result.exit_code == 0, result.output
    for name in ("results.csv", "results.tex", "checkpoints.csv"):
        assert (tmp_path / "elsewhere" / name).read_bytes() == (out / name).read_bytes()
    end = {"markdown": "md", "latex": "tex"}[form]
    written = (tmp_path / "elsewhere" / f"results.{end}").read_text()
    assert result.stdout.strip() == written.strip()


def test_published_numbers_are_asked_for_and_said_where_they_do_not_fit(swept, tmp_path):
    out, _ = swept
    result = run("report", out, "--against", "published", "--out", tmp_path)
    assert "no published numbers are known here" in result.stdout
    assert "Published numbers" in (tmp_path / "report.html").read_text()


def test_a_record_cut_in_the_middle_counts_to_its_last_whole_line(swept, tmp_path):
    out = tmp_path / "cut"
    shutil.copytree(swept[0], out)
    path = next((out / "runs").glob("*/run.jsonl"))
    path.write_bytes(path.read_bytes()[:-5])
    part = run("report", out)
    assert "1 of 2 runs (not finished)" in part.stderr
    again = run(*TINY, "--out", out, "--jobs", 1)
    assert again.exit_code == 0, again.output
    assert records(out) == records(swept[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "spiral"], "did you mean 'spirals'"),
        (["--methods", "and_mask"], "did you mean 'and-mask'"),
        (["--selection", "leave-one-out"], "did you mean 'leave-one-domain-out'"),
        (["--draws", 0], "draws: input should be greater than or equal to 1"),
        (["--jobs", 0], "jobs must be at least 1"),
        (["--per-gpu", 0], "per_gpu must be at least 1"),
        (["--learning-rate", -1], "learning_rate: input should be greater than 0"),
        (["--size", 64], "take no size"),
        (["--hold-out", "+90%", "--hold-out", "-9O%"], "did you mean '-90%'"),
        (["--weight-decay", "inf"], "weight_decay: input should be a finite number"),
        (["--precision", "16-mixed"], "16-mixed needs a GPU"),
        (["--weights", "none.pt"], "there is no file of weights"),
    ],
)
def test_bad_input_is_told_before_anything_is_written(tmp_path, arguments, message):
    result = run(*TINY, "--out", tmp_path / "out", *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert not (tmp_path / "out").exists()
