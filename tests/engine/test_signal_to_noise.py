"""Moments of the samples' gradients against one backward pass a sample."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import domaingrad as dg
from domaingrad.engine import gradients as unit_gradients

from .problems import PROBLEMS, RANDOM, UNFIT
from .separate_passes import model_of, separate_gradients

# A sample by itself has no batch statistics, or counts its words by itself.
OF_THE_BATCH = {name for name in PROBLEMS if "batch norm" in name and "eval" not in name} | {
    "instance norm with running statistics",
    "residual blocks in place",
    "frames of a video",
    "embedding by frequency",
}
COMPARED = [name for name in PROBLEMS if name not in RANDOM | UNFIT.keys() | OF_THE_BATCH]


def moments_of(name: str) -> tuple[dict[str, dg.SignalToNoise], dict[str, np.ndarray]]:
    problem = PROBLEMS[name]
    model, copy = model_of(problem), model_of(problem)
    by_sample = replace(problem, domain=torch.arange(len(problem.domain)))
    reference = separate_gradients(by_sample, copy, "single pass")
    found = dg.signal_to_noise(
        model,
        problem.inputs,
        lambda outputs: problem.losses(outputs, problem.targets),
        **problem.options,
    )
    return found, reference


@pytest.mark.parametrize("name", COMPARED)
def test_moments_are_those_of_separate_passes(name: str) -> None:
    found, reference = moments_of(name)
    assert found.keys() == reference.keys()
    for parameter, g in reference.items():
        # Squares of the rounding noise where the true gradient is zero.
        np.testing.assert_allclose(
            found[parameter].mean.numpy(), g.mean(0), rtol=1e-8, atol=1e-13, err_msg=parameter
        )
        np.testing.assert_allclose(
            found[parameter].mean_square.numpy(),
            np.square(g).mean(0),
            rtol=1e-8,
            atol=1e-20,
            err_msg=parameter,
        )


def test_grad_is_left_alone() -> None:
    model = nn.Linear(3, 2)
    model.weight.grad = torch.ones(2, 3)
    dg.signal_to_noise(model, torch.randn(5, 3), lambda outputs: outputs.square().sum(1))
    assert torch.equal(model.weight.grad, torch.ones(2, 3))
    assert model.bias.grad is None


@pytest.mark.parametrize("name", sorted(UNFIT.keys() - {"embedding bags"} - OF_THE_BATCH))
def test_a_model_that_does_not_fit_says_so_and_is_right(name: str) -> None:
    with pytest.warns(dg.SinglePassWarning, match="one by one"):
        found, reference = moments_of(name)
    for parameter, g in reference.items():
        np.testing.assert_allclose(
            found[parameter].mean_square.numpy(), np.square(g).mean(0), rtol=1e-8, atol=1e-20
        )


def test_batch_norm_in_training_mode_shares_out_the_gradient_of_the_batch() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)
    ).double()
    x, y = torch.randn(6, 2, 5, 5).double(), torch.tensor([0, 1, 2, 0, 1, 2])
    before = model[1].running_mean.clone()
    found = dg.signal_to_noise(model, x, lambda z: F.cross_entropy(z, y, reduction="none"))
    moved = model[1].running_mean.clone()
    expected = model[1].momentum * F.conv2d(x, model[0].weight).mean((0, 2, 3))
    torch.testing.assert_close(moved, before * (1 - model[1].momentum) + expected)
    F.cross_entropy(model(x), y).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name].mean, parameter.grad)


def test_noise_of_n_samples_has_the_ratio_of_theory() -> None:
    """For pure Gaussian noise E[r] = 1/(n − 3) with the biased variance (METHODS)."""
    n, components = 12, 200_000
    model = nn.Linear(components, 1, bias=False)
    x = torch.randn(n, components, generator=torch.Generator().manual_seed(0))
    found = dg.signal_to_noise(model, x, lambda outputs: outputs[:, 0])["weight"]
    # r = t²/(n − 1) with t of n − 1 degrees of freedom; its standard deviation is 0.19 here, so
    # the mean of 200,000 is known to 4e-4.
    assert found.gsnr.mean().item() == pytest.approx(1 / (n - 3), abs=2e-3)


def test_ratio_of_a_linear_model_follows_from_its_residuals() -> None:
    """g_s = (w·x_s − y_s) x_s for half the squared error."""
    random = np.random.default_rng(0)
    x, y, w = random.standard_normal((9, 4)), random.standard_normal(9), np.ones(4)
    g = (x @ w - y)[:, None] * x
    expected = g.mean(0) ** 2 / g.var(0)
    model = nn.Linear(4, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(w))
    targets = torch.from_numpy(y)
    found = dg.signal_to_noise(
        model, torch.from_numpy(x), lambda out: (out[:, 0] - targets).square() / 2
    )["weight"]
    np.testing.assert_allclose(found.gsnr.detach().numpy()[0], expected, rtol=1e-9)
    np.testing.assert_allclose(
        found.bounded.numpy()[0], g.mean(0) ** 2 / np.square(g).mean(0), rtol=1e-12
    )


def test_zero_gradients_have_ratio_zero_and_equal_ones_an_infinite_ratio() -> None:
    model = nn.Linear(2, 1, bias=False)
    x = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    found = dg.signal_to_noise(model, x, lambda outputs: outputs[:, 0])["weight"]
    assert found.bounded.tolist() == [[0.0, 1.0]]
    assert found.gsnr.tolist() == [[0.0, float("inf")]]


@settings(deadline=None, max_examples=40)
@given(
    samples=st.integers(2, 9),
    size=st.integers(3, 7),
    stride=st.integers(1, 2),
    channels=st.integers(1, 3),
)
def test_convolutions_of_any_size(samples: int, size: int, stride: int, channels: int) -> None:
    """One position, few, and many: each has its own way of squares."""
    torch.manual_seed(0)
    model = nn.Conv2d(channels, 2, 3, stride).double()
    x = torch.randn(samples, channels, size, size).double()

    def losses(outputs: Tensor) -> Tensor:
        return outputs.square().sum((1, 2, 3))

    found = dg.signal_to_noise(model, x, losses)
    stack = [torch.autograd.grad(losses(model(row[None])).sum(), model.weight)[0] for row in x]
    g = torch.stack(stack)
    torch.testing.assert_close(found["weight"].mean, g.mean(0))
    torch.testing.assert_close(found["weight"].mean_square, g.square().mean(0))


def test_losses_that_are_no_losses_of_samples() -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(ValueError, match=r"one loss a sample, shape \[5\].*reduction='none'"):
        dg.signal_to_noise(model, torch.randn(5, 3), lambda outputs: outputs.sum())
    with pytest.raises(ValueError, match="nothing to measure"):
        dg.signal_to_noise(
            model.requires_grad_(False), torch.randn(5, 3), lambda outputs: outputs.sum(1)
        )


def test_positions_that_cancel_leave_no_negative_mean_square():
    torch.manual_seed(0)
    layer, weights = nn.Linear(6, 5), torch.randn(5)
    first = torch.randn(16, 1, 6)
    second = -first * (1 + 1e-6 * torch.randn(16, 1, 6))
    x = torch.cat([first, second, torch.zeros(16, 1, 6)], 1)
    found = dg.signal_to_noise(layer, x, lambda out: (out * weights).sum((1, 2)))["weight"]
    assert (found.mean_square >= found.mean.square() * (1 - 1e-6)).all()
    per_sample = weights[:, None] * x.double().sum(1)[:, None]  # d loss_s / d weight
    torch.testing.assert_close(
        found.mean_square.double(), per_sample.square().mean(0), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("size", [1000, 50_000])  # the second in a compiled loop
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # PyTorch's own.
def test_moments_of_a_stack(size: int) -> None:
    stack = torch.randn(8, size, generator=torch.Generator().manual_seed(0)) + 0.3
    rows = stack.double().numpy()
    mean, square = unit_gradients.moments_of(stack)
    np.testing.assert_allclose(mean.numpy(), rows.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(square.numpy(), (rows**2).mean(0), rtol=1e-6)
