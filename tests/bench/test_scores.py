"""What runs of tables are scored, selected and ended by."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import r2_score
from torch.utils.data import TensorDataset

from domaingrad.bench.domains import News, from_datasets, load
from domaingrad.bench.protocol import generator_of, split_domain
from domaingrad.bench.runs.settings import TrainConfig, resolved
from domaingrad.bench.runs.trainer import _class_weights
from domaingrad.bench.runs.training import train


def test_numbers_are_scored_on_all_sources_together_so_that_no_narrow_domain_decides(tmp_path):
    """R² of pooled samples; of a domain with hardly any spread it would be far below 0."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 200, 4, generator=generator)
    y = 100 + 20 * x[..., 0] + 5 * torch.randn(3, 200, generator=generator)
    y[1] = 100 + 0.01 * torch.randn(200, generator=generator)
    data = from_datasets({f"d{k}": TensorDataset(x[k], y[k]) for k in range(3)}, "narrow")
    config = TrainConfig("narrow", "d2", steps=60, checkpoints=2, accelerator="cpu")
    result = train(config, tmp_path / "pooled", data=data)
    found, truth = [], []
    for name in ("d0", "d1"):
        split = split_domain(
            data.domains[name], generator_of(0, "narrow", "trial 0", "split", name)
        )
        inputs, labels = split.data[split.val]
        found.append(result.model.predict(inputs))
        truth.append(labels)
    each = [r2_score(*pair) for pair in zip(truth, found, strict=True)]
    assert each[1] < -100
    told, right = torch.cat(found), torch.cat(truth)
    beside = result.selected.beside
    assert result.selected.val_score == pytest.approx(r2_score(right, told), abs=1e-4)
    assert beside["RMSE"] == pytest.approx((told - right).square().mean().sqrt().item(), rel=1e-4)
    assert beside["MAE"] == pytest.approx((told - right).abs().mean().item(), rel=1e-4)
    assert beside["samples"] == 80
    over = train(replace(config, score_over="domains"), tmp_path / "domains", data=data)
    assert over.selected.val_score < -50


def test_patience_ends_a_run_and_a_resumed_one_at_the_same_step(tmp_path):
    config = TrainConfig(
        "spirals", "random-shortcut", steps=400, checkpoints=40, patience=3, accelerator="cpu"
    )  # fmt: skip
    result = train(config, tmp_path)
    scores = [c.val_score for c in result.directory.checkpoints()]
    assert len(scores) == scores.index(max(scores)) + 4 < 40
    assert any("has not risen for 3 checkpoints" in note for note in result.notes)
    assert train(config, tmp_path).selected == result.selected


def test_epochs_are_passes_over_a_mean_source():
    data = load("spirals", {}, News(), generator_of(0))
    config = TrainConfig("spirals", "random-shortcut", epochs=3, batch=50)
    # Each source has 1024 samples, of which 80 % are trained on.
    assert resolved(config, data).steps == 50
    with pytest.raises(ValueError, match="expected steps or epochs; found 5 and 3 of them"):
        resolved(replace(config, steps=5), data)


def test_class_weights_make_rare_classes_count_as_much(tmp_path):
    """The gradient of weighed losses equals that of copies of the rarer class's samples."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 100, 3, generator=generator)
    y = torch.zeros(2, 100, dtype=torch.long)
    y[:, ::5] = 1
    data = from_datasets({f"d{k}": TensorDataset(x[k], y[k]) for k in range(2)}, "rare")
    config = TrainConfig("rare", None, method="logistic", class_weights="balanced")
    model = train(replace(config, hold_out="d1"), tmp_path, data=data).model
    split = split_domain(data.domains["d0"], generator_of(0, "rare", "trial 0", "split", "d0"))
    inputs, labels = split.data[split.train]
    fit = LogisticRegression(max_iter=2000, class_weight="balanced").fit(inputs, labels)
    np.testing.assert_allclose(model.predict(x[1]), fit.predict_proba(x[1]), atol=2e-4)
    weights = _class_weights({"d0": split}, 2)
    counts = torch.bincount(labels)
    assert torch.allclose(weights * counts, torch.full((2,), len(labels) / 2))


def test_rare_classes_are_named_unless_something_is_done_about_them(tmp_path):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 100, 3, generator=generator)
    y = torch.zeros(2, 100, dtype=torch.long)
    y[:, :3] = 1
    data = from_datasets(
        {f"d{k}": TensorDataset(x[k], y[k]) for k in range(2)}, "rare", ["well", "ill"]
    )
    config = TrainConfig("rare", "d1", method="logistic", accelerator="cpu")
    split = split_domain(data.domains["d0"], generator_of(0, "rare", "trial 0", "split", "d0"))
    count = int((y[0][split.train] == 1).sum())
    notes = train(config, tmp_path / "plain", data=data).notes
    assert any(f"few of 80 training samples are of class ill ({count})" in note for note in notes)
    for at, settings in enumerate(
        ({"class_weights": "balanced"}, {"balance": "class"}, {"metric": "macro-f1"})
    ):
        done = train(replace(config, **settings), tmp_path / str(at), data=data)
        assert not any("few of" in note for note in done.notes)
