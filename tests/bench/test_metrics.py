"""Metrics by name: told by evaluations, and what a run is scored and selected by."""

from dataclasses import replace

import pytest
import torch
from sklearn import metrics as sk

from domaingrad import bench
from domaingrad.bench import register
from domaingrad.bench.metrics import METRICS
from domaingrad.bench.reports.plots import _unit
from domaingrad.bench.runs.settings import TrainConfig, written
from domaingrad.bench.runs.training import train
from domaingrad.bench.schema import SettingError

from ..cli.test_train import run
from . import golden

DIGITS = TrainConfig("rotated-digits", "0°", steps=20, checkpoints=2, accelerator="cpu")


@pytest.fixture
def worst_class():
    """Registered as a plug-in does, and gone again."""

    @register.metric("worst-class", title="worst class")
    def worst(outputs, labels):
        right = outputs.argmax(1) == labels
        return min(right[labels == c].double().mean().item() for c in torch.unique(labels))

    yield worst
    del METRICS._entries["worst-class"]


def test_a_registered_metric_is_told_and_scores_a_run(tmp_path, worst_class):
    result = train(replace(DIGITS, metric="worst-class"), tmp_path)
    evaluation = bench.evaluate(tmp_path)
    sources = [d for d in evaluation.domains if d.role == "source, validation"]
    mean = sum(d.metrics["worst class"] for d in sources) / len(sources)
    assert result.selected.val_score == pytest.approx(mean)
    assert mean < sum(d.metrics["accuracy"] for d in sources) / len(sources)


def test_balanced_accuracy_scores_a_run_as_scikit_learn_has_it(tmp_path):
    result = train(replace(DIGITS, metric="balanced-accuracy"), tmp_path)
    found = []
    for domain in bench.evaluate(tmp_path).domains:
        if domain.role != "source, validation":
            continue
        truth = torch.arange(10).repeat_interleave(domain.confusion.sum(1))
        told = torch.cat([torch.arange(10).repeat_interleave(row) for row in domain.confusion])
        found.append(sk.balanced_accuracy_score(truth, told))
    assert result.selected.val_score == pytest.approx(sum(found) / len(found))


def test_the_unit_of_a_metric_of_numbers_is_that_of_the_labels(tmp_path, monkeypatch):
    monkeypatch.setitem(
        METRICS._entries, "near", bench.METRICS["mae"].__class__(
            "near", lambda o, y: -(o - y).abs().mean(), "regression", percent=False
        )
    )  # fmt: skip
    config = replace(DIGITS, data="sensors", hold_out="sensor-2", metric="near")
    train(config, tmp_path, data=golden.sensors())
    result = train(config, tmp_path, data=golden.sensors())
    x, y = golden.sensors().domains["sensor-2"].tensors
    error = (result.model.predict(x) - y).abs().mean().item()
    shares = 0.8 * result.held_out.score + 0.2 * result.held_out.oracle_validation
    assert -error == pytest.approx(shares, rel=1e-5)


def test_views_and_reports_say_which_metric_it_is(tmp_path):
    options = ["--metric", "macro-f1", "--steps", 20, "--checkpoints", 2, "--accelerator", "cpu"]
    done = run("train", "--data", "colored-digits", "--hold-out=-90%", *options, "--out",
               tmp_path / "one")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "source validation macro F1 " in done.stderr
    assert "macro F1 " in done.stdout
    config = bench.SweepConfig(
        data=("colored-digits",), methods=("erm",), hold_out=("-90%",), trials=1,
        settings={"metric": "macro-f1", "steps": 20, "checkpoints": 2, "accelerator": "cpu"},
    )  # fmt: skip
    summary = bench.sweep(config, tmp_path / "many", jobs=1)
    assert summary.data[0].data.recipe.endswith("scored by macro F1")
    assert _unit(summary.data[0]) == "macro F1, %"


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("acuracy", "no metric 'acuracy'; did you mean 'accuracy'"),
        ("ece", "expected a metric of classification of which more is better, one of accuracy"),
        ("r2", "expected a metric of classification .* found R²"),
    ],
)
def test_a_metric_that_does_not_fit_is_refused(tmp_path, metric, said):
    with pytest.raises(ValueError, match=said):
        train(replace(DIGITS, metric=metric), tmp_path / "run")
    assert issubclass(SettingError, ValueError)


def test_the_code_of_a_metric_of_ones_own_decides(tmp_path, worst_class):
    data = golden.cameras()
    config = replace(golden.CAMERAS, data="cameras", backbone="mnist-cnn")
    plain = written(config, data)["decided_by"]["code"]
    own = written(replace(config, metric="worst-class"), data)["decided_by"]["code"]
    ours = written(replace(config, metric="auroc"), data)["decided_by"]["code"]
    assert own != plain
    assert ours == plain
