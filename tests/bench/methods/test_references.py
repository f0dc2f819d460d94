"""scikit-learn's models under the protocol: the numbers of scikit-learn, in files without code."""

import numpy as np
import pytest
import torch
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression, Ridge
from torch.utils.data import TensorDataset

from domaingrad import bench
from domaingrad.bench.domains import DataError, from_datasets
from domaingrad.bench.models.trees import Trees
from domaingrad.bench.protocol import generator_of, split_domain
from domaingrad.bench.runs.settings import TrainConfig
from domaingrad.bench.runs.training import train

PLAIN = {"early_stopping": False}
CASES = {
    "hist-gradient-boosting": (
        lambda: HistGradientBoostingClassifier(**PLAIN),
        lambda: HistGradientBoostingRegressor(**PLAIN),
    ),
    "logistic": (lambda: LogisticRegression(max_iter=2000), None),
    "ridge": (None, Ridge),
    "random-forest": (RandomForestClassifier, RandomForestRegressor),
}


def domains(classes, missing=None):
    """Three of 150 samples with eight inputs; one class may be missing in the first two."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 150, 8, generator=generator)
    score = x[..., 0] + x[..., 1] * x[..., 2] + 0.3 * torch.randn(3, 150, generator=generator)
    if not classes:
        return {f"d{k}": TensorDataset(x[k], 5 + 30 * score[k]) for k in range(3)}
    edges = torch.linspace(-1, 1, classes - 1) if classes > 2 else torch.zeros(1)
    y = torch.bucketize(score, edges)
    if missing is not None:
        y[:2][y[:2] == missing] = missing - 1
    return {f"d{k}": TensorDataset(x[k], y[k]) for k in range(3)}


def trained(out, data, method, **settings):
    config = TrainConfig("made", "d2", method=method, accelerator="cpu", **settings)
    return train(config, out, data=from_datasets(data, "made"))


@pytest.mark.parametrize("classes", [0, 2, 4])
@pytest.mark.parametrize("method", CASES)
def test_outputs_are_those_of_scikit_learn_on_the_training_splits(tmp_path, method, classes):
    kind = CASES[method][classes == 0]
    if kind is None:
        return
    data = domains(classes)
    result = trained(tmp_path, data, method)
    assert result.selected.step == 1
    splits = {
        name: split_domain(domain, generator_of(0, "made", "trial 0", "split", name))
        for name, domain in data.items()
    }
    x, y = (torch.cat([splits[n].data.tensors[i][splits[n].train] for n in ("d0", "d1")]).numpy()
            for i in (0, 1))  # fmt: skip
    new = data["d2"].tensors[0]
    ours = bench.load_model(tmp_path).predict(new).numpy()
    drawn = generator_of(0, "made", "trial 0", "held out d2", "method")
    seed = int(torch.randint(2**31, (), generator=drawn))
    fit = kind().set_params(random_state=seed).fit(x, y)
    theirs = fit.predict_proba(new.numpy()) if classes else fit.predict(new.numpy())
    # Ridge's shrinkage acts on the scaled target as on the other; logistic stops within 1e-4.
    np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("method", ["hist-gradient-boosting", "logistic", "random-forest"])
@pytest.mark.parametrize(("classes", "missing"), [(4, 3), (3, 2)])
def test_a_class_that_the_sources_lack_is_never_predicted(tmp_path, method, classes, missing):
    data = domains(classes, missing)
    assert missing in data["d2"].tensors[1]
    trained(tmp_path, data, method)
    p = bench.load_model(tmp_path).predict(data["d2"].tensors[0])
    assert p.shape == (150, classes)
    assert p[:, missing].max() < 1e-6
    y = data["d2"].tensors[1]
    assert (p.argmax(1) == y)[y != missing].double().mean() > 0.4


def test_a_reference_that_does_not_fit_the_labels_says_so(tmp_path):
    with pytest.raises(DataError, match="ridge regression needs labels that are numbers; found 2"):
        trained(tmp_path / "a", domains(2), "ridge")
    with pytest.raises(DataError, match="logistic regression needs labels that are classes"):
        trained(tmp_path / "b", domains(0), "logistic")


def test_references_stand_beside_methods_in_a_sweep(tmp_path):
    config = bench.SweepConfig(
        data=("spirals",), methods=("erm", "random-forest"), trials=1,
        hold_out=("random-shortcut",),
        settings={"steps": 20, "checkpoints": 2, "accelerator": "cpu"},
    )  # fmt: skip
    summary = bench.sweep(config, tmp_path, jobs=1)
    table = summary.data[0].tables["training-domain-validation"]
    assert [row.method.info.name for row in table] == ["erm", "random-forest"]
    assert all(row.average is not None for row in table)
    assert not summary.missing


def test_trees_have_no_gradients_to_inspect(tmp_path):
    bench.train("spirals", tmp_path, hold_out="random-shortcut", method="hist-gradient-boosting")
    with pytest.raises(DataError, match="no gradients"):
        bench.inspect(tmp_path)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("below", [0, 5]),
        ("feature", [9]),
        ("root", [-1]),
        ("column", [1]),
        ("threshold", [0.0, 1.0]),
    ],
)
def test_trees_that_lead_out_of_themselves_are_refused(name, wrong):
    """As a model file of a stranger may have them."""
    trees = {
        "feature": torch.tensor([0]), "threshold": torch.tensor([0.0]).double(),
        "below": torch.tensor([0, 0]), "root": torch.tensor([0]), "column": torch.tensor([0]),
        "base": torch.zeros(1).double(), "depth": torch.tensor(1),
        "value": torch.ones(1, 1).double(),
    }  # fmt: skip
    Trees((3,), 1).grow(trees)
    with pytest.raises(ValueError, match=f"the trees' {name} does not fit"):
        Trees((3,), 1).grow({**trees, name: torch.tensor(wrong)})
