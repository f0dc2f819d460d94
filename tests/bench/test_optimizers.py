"""The recipe's optimizers and schedules, against their equations in float64 NumPy."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.amp import GradScaler

from domaingrad.bench.domains import Training
from domaingrad.bench.methods import Amp
from domaingrad.bench.runs.optimizers import Optimizers
from domaingrad.bench.runs.settings import TrainConfig, deciding
from domaingrad.bench.runs.training import train
from domaingrad.bench.schema import SettingError

STEPS, RATE, DECAY = 8, 0.1, 0.05
START = np.array([1.0, -2.0, 0.5])
GRADIENTS = [np.array([3.0, -4.0, 0.1 * t]) * (-1) ** t / (1 + t) for t in range(STEPS)]


def rate_at(t, schedule, warm_up):
    warm = min(1.0, (t + 1) / warm_up) if warm_up else 1.0
    if schedule == "cosine":
        past = max(0, t - warm_up) / (STEPS - warm_up)
        return RATE * warm * (1 + math.cos(math.pi * past)) / 2
    return RATE * warm * (0.9995**t if schedule == "exponential" else 1.0)


def clipped(g, most):
    norm = np.linalg.norm(g)
    # PyTorch adds 1e-6 to the norm.
    return g if most is None or norm <= most else g * most / (norm + 1e-6)


def reference(optimizer, momentum, schedule, warm_up, clip_norm):
    w, m, v = START.copy(), 0.0, 0.0
    for t, raw in enumerate(GRADIENTS):
        g, rate = clipped(raw, clip_norm), rate_at(t, schedule, warm_up)
        if optimizer == "adamw":
            w = w - rate * DECAY * w
        else:
            g = g + DECAY * w
        if optimizer == "sgd":
            m = momentum * m + g
            w = w - rate * m
            continue
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        unbiased = m / (1 - 0.9 ** (t + 1)), v / (1 - 0.999 ** (t + 1))
        w = w - rate * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
    return w


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "exponential"])
@pytest.mark.parametrize("warm_up", [0, 3])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_steps_are_those_of_the_equations(optimizer, schedule, warm_up, clip_norm):
    momentum = 0.9 if optimizer == "sgd" else 0.0
    training = Training(
        steps=STEPS, batch=1, learning_rate=RATE, weight_decay=DECAY, optimizer=optimizer,
        momentum=momentum, schedule=schedule, warm_up=warm_up, clip_norm=clip_norm,
    )  # fmt: skip
    weight = nn.Parameter(torch.tensor(START))
    optimizers = Optimizers(training)
    made, amp = optimizers([weight]), Amp(GradScaler("cpu", enabled=False), clip_norm)
    for g in GRADIENTS:
        weight.grad = torch.tensor(g)
        amp.step(made)
        optimizers.advance([made])
    expected = reference(optimizer, momentum, schedule, warm_up, clip_norm)
    # Adam's fused kernel rounds 1e-8 and the bias corrections otherwise.
    np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=1e-7)


def test_clipping_sees_gradients_without_the_scale_of_the_loss():
    weight = nn.Parameter(torch.zeros(2))
    made, amp = torch.optim.SGD([weight], 1.0), Amp(GradScaler("cpu", init_scale=1024.0), 2.5)
    amp.scale(weight @ torch.tensor([3.0, -4.0])).backward()
    amp.step(made)
    # Half of (3, −4), whose norm is 5.
    torch.testing.assert_close(weight.detach(), torch.tensor([-1.5, 2.0]))


def test_a_gradient_that_is_not_finite_stays_visible_when_clipped():
    weight = nn.Parameter(torch.ones(2))
    made = torch.optim.SGD([weight], 0.1)
    weight.grad = torch.tensor([torch.inf, 1.0])
    Amp(GradScaler("cpu", enabled=False), 1.0).step(made)
    assert not weight.isfinite().all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"momentum": 0.9}, "momentum is a setting of the optimizer sgd"),
        ({"schedule": "one-cycle", "warm_up": 3}, "one-cycle moves momentum and warms up"),
        ({"warm_up": 12, "schedule": "constant"}, "warm_up has to end before training does"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(tmp_path, change, said):
    config = TrainConfig("colored-digits", "-90%", steps=12, accelerator="cpu", **change)
    with pytest.raises(SettingError, match=said):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_the_recipe_that_runs_had_before_it_was_a_setting_makes_the_same_run():
    told = {"optimizer": "adam", "momentum": 0.0, "warm_up": 0, "clip_norm": None}
    assert deciding(told) == {}
    assert deciding(told | {"optimizer": "sgd"}) == {"optimizer": "sgd"}
