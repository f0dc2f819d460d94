"""Metrics against scikit-learn, and which samples they are taken on."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from domaingrad.bench.domains import DataError
from domaingrad.bench.metrics import beside_score
from domaingrad.bench.metrics import told as told_of
from domaingrad.bench.runs.directory import RunDirectory
from domaingrad.bench.runs.settings import TrainConfig
from domaingrad.bench.runs.training import train
from domaingrad.bench.use.evaluation import evaluate

HEADER = "site,age,colour,ill\n"


def probabilities(classes, samples=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (samples,), generator=generator)
    logits = torch.randn(samples, classes, generator=generator, dtype=torch.float64)
    logits[torch.arange(samples), labels] += 0.7
    return logits.softmax(1), labels


@pytest.mark.parametrize("classes", [2, 5])
def test_classification_metrics_are_those_of_scikit_learn(classes):
    p, y = probabilities(classes)
    found = told_of("classification", p, y)
    told = p.argmax(1)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(y, told))
    assert found["balanced accuracy"] == pytest.approx(sk.balanced_accuracy_score(y, told))
    assert found["macro F1"] == pytest.approx(sk.f1_score(y, told, average="macro"))
    auroc = sk.roc_auc_score(y, p[:, 1] if classes == 2 else p, multi_class="ovr")
    assert found["AUROC"] == pytest.approx(auroc, abs=1e-6)


def test_the_calibration_error_is_that_of_its_equation():
    p, y = probabilities(4, samples=500)
    confidence, told = (each.numpy() for each in p.max(1))
    right = told == y.numpy()
    edges = np.linspace(0, 1, 16)
    error = 0.0
    for low, high in pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert told_of("classification", p, y)["ECE"] == pytest.approx(error, abs=1e-6)


def test_classes_that_do_not_occur_do_not_count():
    p, y = probabilities(3)
    p, y = p[y < 2], y[y < 2]
    found = told_of("classification", p, y)
    told = p.argmax(1)
    recalls = [(told[y == c] == c).double().mean().item() for c in (0, 1)]
    assert found["balanced accuracy"] == pytest.approx(np.mean(recalls))
    aurocs = [sk.roc_auc_score(y == c, p[:, c]) for c in (0, 1)]
    assert found["AUROC"] == pytest.approx(np.mean(aurocs), abs=1e-6)
    assert "AUROC" not in told_of("classification", p[y == 0], y[y == 0])


def test_regression_metrics_are_those_of_scikit_learn():
    generator = torch.Generator().manual_seed(1)
    y = torch.randn(50, generator=generator)
    told = y + 0.3 * torch.randn(50, generator=generator)
    found = told_of("regression", told, y)
    assert found["R²"] == pytest.approx(sk.r2_score(y, told), abs=1e-5)
    assert found["RMSE"] == pytest.approx(sk.root_mean_squared_error(y, told), abs=1e-5)
    assert found["MAE"] == pytest.approx(sk.mean_absolute_error(y, told), abs=1e-5)
    assert "R²" not in told_of("regression", told, torch.ones(50))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Four sites; 'ill' follows age; the last has a colour that the others lack."""
    generator = np.random.default_rng(0)
    rows = []
    for site in ("a", "b", "c", "d"):
        for _ in range(60):
            age = generator.integers(20, 80)
            colour = "green" if site == "d" else generator.choice(["red", "blue"])
            rows.append(f"{site},{age},{colour},{'yes' if age > 50 else 'no'}\n")
    path = tmp_path_factory.mktemp("table") / "patients.csv"
    path.write_text(HEADER + "".join(rows))
    return path


@pytest.fixture(scope="module")
def trained(table, tmp_path_factory):

    options = {"target": "ill", "domain": "site"}
    config = TrainConfig(
        f"csv:{table}", "d", data_options=options, steps=150, batch=32, learning_rate=0.01,
        accelerator="cpu",
    )  # fmt: skip
    return train(config, tmp_path_factory.mktemp("run"))


def test_sources_are_told_on_their_validation_and_the_held_out_domain_on_all(trained):
    evaluation = evaluate(trained.directory)
    told = {found.domain: (found.role, found.samples) for found in evaluation.domains}
    source = ("source, validation", 12)
    assert told == {"a": source, "b": source, "c": source, "d": ("held out", 60)}
    sources = [found.metrics["accuracy"] for found in evaluation.domains[:3]]
    assert np.mean(sources) == pytest.approx(trained.selected.val_score)
    held_out = 48 * trained.held_out.score + 12 * trained.held_out.oracle_validation
    assert evaluation.domains[3].metrics["accuracy"] == pytest.approx(held_out / 60)
    assert held_out > 54
    assert all(found.confusion.sum() == found.samples for found in evaluation.domains)


def test_other_data_are_evaluated_with_the_models_own_vocabulary(trained, tmp_path):
    """Names in another order and number, columns in another order, an unknown colour."""
    path = tmp_path / "new.csv"
    rows = [f"{i},{'yes' if age > 50 else 'no'},site-{i % 2},{colour},{age}\n"
            for i, (age, colour) in enumerate([(25, "blue"), (75, "amber"), (30, "red"),
                                               (70, "red"), (22, ""), (78, "violet")])]  # fmt: skip
    path.write_text("number,ill,site,colour,age\n" + "".join(rows))
    evaluation = evaluate(trained.directory, str(path))
    assert [found.role for found in evaluation.domains] == ["new data"] * 2
    model = trained.model
    told = model.outputs(model.files([path])[1])
    ill = model.classes.index("yes")
    assert (told[:, ill] > 0.5).tolist() == [False, True, False, True, False, True]
    assert [found.metrics["accuracy"] for found in evaluation.domains] == [1.0, 1.0]
    (tmp_path / "odd.csv").write_text(path.read_text().replace("yes", "maybe"))
    with pytest.raises(DataError, match="has others: maybe"):
        evaluate(trained.directory, str(tmp_path / "odd.csv"))


def test_data_that_have_changed_since_are_refused(trained, table):
    before = table.read_text()
    table.write_text(before.replace("a,", "b,", 1))
    try:
        with pytest.raises(DataError, match="has changed since"):
            evaluate(trained.directory)
    finally:
        table.write_text(before)


def test_a_directory_without_a_run_or_a_model_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"is no run: it has no config\.yaml"):
        RunDirectory.existing(tmp_path)


def _accuracy(outputs, labels):
    return sk.accuracy_score(torch.cat(list(labels)), torch.cat(list(outputs)).argmax(1))


def test_the_interval_of_an_accuracy_is_wilsons():
    """Against its equation solved for p by bisection: |p̂ − p| = z √(p (1 − p) / n)."""
    for right, count in ((4, 4), (37, 50), (0, 9)):
        outputs = torch.zeros(count, 2)
        outputs[:, 1] = 1
        labels = torch.tensor([1] * right + [0] * (count - right))
        share = right / count
        found = beside_score("classification", None, [outputs], [labels], _accuracy)
        for low, high, end in ((0.0, share, "low"), (share, 1.0, "high")):
            outside, inside = (low, high) if end == "low" else (high, low)
            for _ in range(60):
                p = (outside + inside) / 2
                far = abs(share - p) > 1.959964 * (p * (1 - p) / count) ** 0.5
                outside, inside = (p, inside) if far else (outside, p)
            assert found[end] == pytest.approx(p, abs=1e-6)
        assert found["samples"] == count


def test_other_intervals_hold_what_they_say():
    """Of 200 draws of 400 samples, the R² of many lies in nearly 95 % of the intervals."""
    generator = np.random.default_rng(0)

    def of(count):
        y = torch.as_tensor(generator.normal(size=count))
        return y + torch.as_tensor(generator.normal(size=count)) * 0.5, y

    def r2(outputs, labels):
        return sk.r2_score(torch.cat(list(labels)), torch.cat(list(outputs)))

    truth = r2(*([part] for part in of(10**6)))
    inside = 0
    for _ in range(200):
        outputs, labels = of(400)
        found = beside_score("regression", None, [outputs], [labels], r2)
        inside += found["low"] < truth < found["high"]
    assert 0.9 <= inside / 200 <= 0.99
    few = beside_score("regression", None, [outputs[:30]], [labels[:30]], r2)
    assert "low" not in few
