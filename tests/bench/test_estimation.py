"""Accuracy without labels: by its equations, and checked on the domains held out."""

import json

import numpy as np
import pytest
import torch

from domaingrad import bench
from domaingrad.bench.domains import DataError
from domaingrad.bench.use.estimation import thresholded_confidence

from ..cli.test_train import run


def test_thresholded_confidence_is_that_of_its_equation():
    """t with E[s < t] = E[wrong] on the source; then E[s ≥ t] on the target (2201.04234, eq. 2)."""
    rng = np.random.default_rng(0)
    source, right, target = rng.random(500), rng.random(500) < 0.8, rng.random(300) ** 2
    error = 1 - right.mean()
    thresholds = [t for t in np.sort(source) if np.isclose((source < t).mean(), error)]
    assert len(thresholds) == 1
    ours = thresholded_confidence(*map(torch.as_tensor, (source, right, target)))
    assert ours == pytest.approx((target >= thresholds[0]).mean())
    same = thresholded_confidence(*map(torch.as_tensor, (source, right, source)))
    assert same == pytest.approx(right.mean())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    place, rng = tmp_path_factory.mktemp("estimate"), np.random.default_rng(0)
    rows = []
    for at, site in enumerate("abc"):
        x = rng.normal(size=(120, 3)) * (1 + 0.3 * at)
        y = x[:, 0] + x[:, 1] + rng.normal(size=120) > 0
        rows += [
            f"{site},{p:.4f},{q:.4f},{r:.4f},{int(t)}\n" for (p, q, r), t in zip(x, y, strict=True)
        ]
    (place / "t.csv").write_text("site,p,q,r,y\n" + "".join(rows))
    bench.train(
        str(place / "t.csv"), place / "run", hold_out=None, steps=60, checkpoints=2,
        data_options={"target": "y", "domain": "site"}, accelerator="cpu",
    )  # fmt: skip
    return place


def test_estimates_are_checked_on_every_domain_that_was_held_out(trained):
    found = bench.estimate(trained / "run", [trained / "t.csv"])
    assert found.samples == 360
    assert list(found.checks) == ["a", "b", "c"]
    for name, (truth, told) in found.checks.items():
        evaluation = bench.evaluate(trained / "run" / "estimate" / name)
        [own] = [each for each in evaluation.domains if each.domain == name]
        assert truth == pytest.approx(own.metrics["accuracy"])
        assert abs(told.atc - truth) < 0.25
        sources = [each for each in evaluation.domains if each.domain != name]
        model = bench.load_model(trained / "run" / "estimate" / name)
        assert model.held_out == name
        assert len(sources) == 2
    mean, most = found.errors()["doc"]
    off = [abs(told.doc - truth) for truth, told in found.checks.values()]
    assert (mean, most) == (pytest.approx(np.mean(off)), pytest.approx(max(off)))
    assert abs(found.estimates.atc - found.source_accuracy) < 0.15


def test_the_command_says_how_far_to_trust_it_and_what_it_does_not_see(trained):
    done = run("estimate", trained / "run", trained / "t.csv")
    assert done.exit_code == 0, done.output
    text = " ".join(done.stdout.split())
    assert "360 new samples" in text
    assert "On the 3 domains held out, ATC was off by" in text
    assert "do not see a shift that leaves it as it is" in text
    told = json.loads(run("estimate", trained / "run", trained / "t.csv", "--json").stdout)
    assert told["estimates"].keys() == {"atc", "doc"}


def test_a_model_of_numbers_has_no_confidence(trained, tmp_path):
    bench.train(
        str(trained / "t.csv"), tmp_path, hold_out="a", method="ridge", accelerator="cpu",
        data_options={"target": "r", "domain": "site"},
    )  # fmt: skip
    with pytest.raises(DataError, match="predicts numbers"):
        bench.estimate(tmp_path, [trained / "t.csv"])
