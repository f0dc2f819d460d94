"""The mean of several draws' weights, against a mean by hand."""

import json

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from domaingrad import bench
from domaingrad.bench.disk import RunDirectoryError
from domaingrad.bench.runs.directory import RunDirectory
from domaingrad.cli.app import app


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    out = tmp_path_factory.mktemp("diwa") / "sweep"
    request = bench.SweepConfig(
        data=("colored-digits",), methods=("erm",), draws=3, trials=2,
        settings={"steps": 20, "checkpoints": 2, "accelerator": "cpu"}, hold_out=("-90%",),
    )  # fmt: skip
    bench.sweep(request, out, jobs=1, keep_models=True)
    return out


def test_the_weights_are_the_mean_of_the_draws(swept):
    directory = bench.SweepDirectory.existing(swept)
    found = bench.average_runs(swept)
    assert [(a.method, a.held_out, a.trial, a.draws) for a in found] == [
        ("erm", "-90%", 0, 3),
        ("erm", "-90%", 1, 3),
    ]
    for averaged in found:
        runs = [r for r in directory.plan().runs if r.config.trial == averaged.trial]
        runs = [r for r in runs if r.config.held_out == ("-90%",)]
        every = [load_file(RunDirectory(directory.place(r.key)).model) for r in runs]
        state = averaged.evaluation.trained.weights_of(averaged.evaluation.trained.predictor)
        for name, tensor in state.items():
            mean = sum(each[name].double() for each in every) / 3
            torch.testing.assert_close(tensor.double(), mean, rtol=1e-6, atol=1e-7)
        assert {d.role for d in averaged.evaluation.domains} == {"source, validation", "held out"}


def test_draws_of_a_trial_begin_at_the_same_weights(swept, monkeypatch):
    """Which the average asks for."""
    begun = []
    keep = bench.runs.resumable._network

    def network(*arguments):
        found = keep(*arguments)
        begun.append(torch.cat([p.detach().flatten() for p in found[0].parameters()]))
        return found

    monkeypatch.setattr(bench.runs.resumable, "_network", network)
    for rate in (1e-3, 1e-2):
        bench.train(
            "colored-digits", hold_out="-90%", learning_rate=rate, steps=2, checkpoints=1,
            accelerator="cpu", out=swept.parent / f"rate-{rate}",
        )  # fmt: skip
    assert torch.equal(*begun)


def test_on_the_command_line(swept):
    done = CliRunner().invoke(app, ["report", str(swept), "--average-runs", "--json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    assert [row["draws"] for row in rows] == [3, 3]
    assert all(0 <= row["held-out score"] <= 1 for row in rows)


def test_without_models_it_says_how_to_keep_them(tmp_path):
    request = bench.SweepConfig(
        data=("spirals",), methods=("erm",), trials=1, hold_out=("random-shortcut",),
        settings={"steps": 2, "checkpoints": 1, "accelerator": "cpu"},
    )  # fmt: skip
    bench.sweep(request, tmp_path / "sweep", jobs=1)
    with pytest.raises(RunDirectoryError, match="draws of 2 or more and keep_models"):
        bench.average_runs(tmp_path / "sweep")
