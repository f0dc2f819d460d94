"""Averages of weights: by hand, kept through a kill, evaluated and saved, training untouched."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from domaingrad.bench.domains import DataError, score
from domaingrad.bench.methods import METHODS
from domaingrad.bench.models import PREDICTORS, Predictor
from domaingrad.bench.protocol import generator_of, split_domain
from domaingrad.bench.runs.averaging import SWAD, RunningMean, valley
from domaingrad.bench.runs.resumable import begin
from domaingrad.bench.runs.settings import TrainConfig
from domaingrad.bench.runs.training import train
from domaingrad.bench.schema import SettingError

from . import golden
from .methods.sketches import SKETCHES
from .test_training import assert_same, cut_off, outcome

DIGITS = TrainConfig("colored-digits", "-90%", steps=24, checkpoints=8, accelerator="cpu")
KINDS = {"uniform": {"average_from": 5}, "ema": {"average_from": 3, "average_decay": 0.9},
         "swad": {}}  # fmt: skip


# By hand. Losses fall to 1.0 at segment 3, the first with no lower one among the next two; the
# threshold is 1.3 · (1.0 + 1.1 + 1.2) / 3 = 1.43. Back as far as 3 + 3 − 6 = 0: segment 2 (1.4) is
# under it, segment 1 (1.5) is not. Ahead: segment 6 (1.6) is over it, but 7 (1.3) lies in its
# window of six; of segment 8 and later none is under it.
LOSSES = [2.0, 1.5, 1.4, 1.0, 1.1, 1.2, 1.6, 1.3, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0]


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (5, None),  # 1.0 has one later loss only
        (6, range(2, 6)),
        (7, range(2, 6)),  # 1.6 is the last, and over the threshold
        (8, range(2, 8)),
        (14, range(2, 8)),
    ],
)
def test_the_window_of_swad_is_the_one_found_by_hand(seen, expected):
    assert valley(LOSSES[:seen], converge=3, tolerance=6, ratio=0.3) == expected


def test_back_beyond_the_first_segments_and_with_a_short_tolerance():
    assert valley([1.0, 1.1, 1.2], 3, 6, 0.3) == range(3)
    # No segment before the start where the windows are of one length.
    assert valley([1.4, 1.0, 1.1, 1.2], 3, 3, 0.3) == range(1, 4)
    # A loss that is not a number is under no threshold.
    assert valley([float("nan")] * 4, 3, 6, 0.3) is None


class Point(nn.Module):
    """A weight, a running statistic and a count."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.register_buffer("running", torch.zeros(2))
        self.register_buffer("count", torch.tensor(0))

    def set(self, values):
        with torch.no_grad():
            self.weight.copy_(torch.tensor(values))
            self.running.copy_(10 * self.weight)
            self.count += 1


def path(steps):
    return np.random.default_rng(0).normal(size=(steps, 2))


def applied(averaging):
    own = {name: tensor.clone() for name, tensor in averaging.model.state_dict().items()}
    with averaging.applied():
        model = averaging.model
        found = model.weight.detach().double().numpy().copy()
        np.testing.assert_allclose(model.running.double().numpy(), 10 * found, rtol=1e-5)
        assert model.count == own["count"]
    for name, tensor in averaging.model.state_dict().items():
        assert torch.equal(tensor, own[name])
    return found


def test_swad_averages_the_steps_of_each_segment_and_then_the_segments():
    averaging, points, lengths = SWAD(Point(), 0.3), path(28), [2] * 14
    segments = points.reshape(14, 2, 2).mean(1)
    done = iter(points)
    for seen, length in enumerate(lengths, start=1):
        for _ in range(length):
            averaging.model.set(next(done))
            averaging.step()
        averaging.validated(LOSSES[seen - 1])
        window = valley(LOSSES[:seen], 3, 6, 0.3) or range(seen - 1, seen)
        # Float32, over up to twelve steps.
        expected = segments[window.start : window.stop].mean(0)
        np.testing.assert_allclose(applied(averaging), expected, atol=1e-6)
    assert len(averaging.state_dict()["recent"]) == 6


@pytest.mark.parametrize("decay", [None, 0.9])
def test_running_means_are_those_of_the_equations(decay):
    averaging, points = RunningMean(Point(), begin=4, decay=decay), path(12)
    for t, point in enumerate(points):
        averaging.model.set(point)
        averaging.step()
        if t < 4:
            expected = point
        elif decay is None:
            expected = points[4 : t + 1].mean(0)
        else:
            expected = point if t == 4 else decay * expected + (1 - decay) * point
        np.testing.assert_allclose(applied(averaging), expected, atol=1e-6)


@pytest.mark.parametrize("average", KINDS)
def test_averaging_changes_nothing_in_training_and_is_what_is_evaluated_and_saved(
    tmp_path, average
):
    data = golden.sensors()
    plainly = replace(DIGITS, data="sensors", hold_out="sensor-2")
    config = replace(plainly, average=average, **KINDS[average])
    plain = train(plainly, tmp_path / "plain", data=data)
    averaged = train(config, tmp_path / "averaged", data=data)
    seen = [r.directory.checkpoints() for r in (plain, averaged)]
    assert [c.loss for c in seen[0]] == [c.loss for c in seen[1]]
    assert [c.agreement for c in seen[0]] == [c.agreement for c in seen[1]]
    assert seen[0][-1].val_score != seen[1][-1].val_score
    stored, labels = data.domains["sensor-2"].tensors
    split = split_domain(
        data.domains["sensor-2"], generator_of(0, "sensors", "trial 0", "split", "sensor-2")
    )
    told = averaged.model.outputs(stored, split.train)
    assert averaged.held_out.score == pytest.approx(
        score("regression", told.unsqueeze(1), labels[split.train])
    )
    assert averaged.held_out.score != plain.held_out.score
    assert averaged.model.facts["average"] == average


def test_the_uniform_mean_of_a_run_is_that_of_its_steps(tmp_path):
    """Against weights noted after each step of the same run without an average."""
    config = replace(DIGITS, steps=6, checkpoints=1, average="uniform", average_from=2)
    data = golden.cameras()
    config = replace(config, data="cameras", hold_out="camera-2", batch=4, backbone="resnet18")
    pytest.importorskip("torchvision")
    result = train(config, tmp_path / "run", data=data)
    trainer = begin(replace(result.config, average="none"), data).trainer
    noted = []
    for _ in range(6):
        trainer.step()
        noted.append({n: t.clone() for n, t in trainer.network.plain_state().items()})
    saved = load_file(result.directory.model)
    for name, tensor in saved.items():
        if tensor.is_floating_point():
            mean = torch.stack([each[name].double() for each in noted[2:]]).mean(0)
            torch.testing.assert_close(tensor.double(), mean, rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(tensor, noted[-1][name])


@pytest.mark.parametrize("average", KINDS)
@pytest.mark.parametrize("method", ["and-mask", "gsnr-dropout"])
def test_an_average_cut_off_goes_on_to_the_same_bits(tmp_path, average, method):
    config = replace(DIGITS, average=average, method=method, **KINDS[average])
    whole = train(config, tmp_path / "whole")
    cut_off(config, tmp_path / "cut", step=13)
    assert_same(outcome(train(config, tmp_path / "cut")), outcome(whole))


EVERY = {**SKETCHES, **METHODS}
OWN_AVERAGE = {"erm++", "swad"} - METHODS.keys()
"""Sketches that predict by one."""


@pytest.fixture
def registered(monkeypatch):
    """The sketches, as a plug-in registers them."""
    for name, method in SKETCHES.items():
        monkeypatch.setitem(METHODS._entries, name, METHODS._entries.get(name, method))
    for kind in Predictor.__subclasses__():
        monkeypatch.setitem(PREDICTORS._entries, kind.name, kind)


@pytest.mark.usefixtures("registered")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", EVERY)
def test_any_method_has_its_predictor_averaged_or_says_that_it_has_its_own(tmp_path, name):
    """Whose weights are saved is then the average that the last checkpoint holds."""
    config = replace(
        DIGITS, data="rotated-digits", hold_out="0°", method=name, average="ema", average_from=2,
        steps=6, batch=16, checkpoints=1,
    )  # fmt: skip
    if name in OWN_AVERAGE:
        with pytest.raises(DataError, match="average of its own"):
            train(config, tmp_path / "run")
        return
    result = train(config, tmp_path / "run")
    state = result.directory.state()
    kept = {
        result.model.network.plain_name(key.removeprefix("network.")): tensor
        for key, tensor in state["trainer"]["averaging"]["mean"].items()
    }
    saved = {
        result.model.network.plain_name(key.removeprefix("predictor.").removeprefix("network.")): t
        for key, t in result.model.state_dict().items()
    }
    assert kept.keys() <= saved.keys()
    assert all(torch.equal(tensor, saved[key]) for key, tensor in kept.items())
    assert result.model.predict(torch.rand(6, 1, 8, 8)).shape == (6, 10)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"average": "ema"}, "average_from has to be before training ends; found 100 of 24"),
        ({"average": "swad", "checkpoints": 2}, "swad takes 3 checkpoints or more"),
    ],
)
def test_an_average_that_would_not_come_about_is_refused(tmp_path, change, said):
    with pytest.raises(SettingError, match=said):
        train(replace(DIGITS, **change), tmp_path / "run")
