import math

import numpy as np
import pytest
import torch

from domaingrad.rules import SANDMask
from tests.reference import rules as reference
from tests.reference.closeness import assert_close
from tests.reference.matrices import COUNTS, DTYPES, KINDS, rows, stacks

from .variants import of_model


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("variance", "tau", "k"),
    [("absolute", 0.5, 10.0), ("absolute", 0.0, 0.3), ("relative", 0.25, 1.0)],
)
def test_equation(
    variance: str, tau: float, k: float, kind: str, count: int, dtype: torch.dtype
) -> None:
    rule = SANDMask(tau, k, variance)  # type: ignore[arg-type]
    for stack in stacks(kind, count, dtype):
        expected = reference.sand_mask(rows(stack), tau, k, variance)
        # v is a sum of K squares (K·u each for the deviations and their sum); the margin
        # |S|/K − τ is at least 1/K where it is positive, so rounding to u costs it K·u; the
        # relative error of tanh is at most that of its argument; and the mean of m has it again.
        assert_close(rule(stack), expected, stack, gain=stack[0].numel(), relative=8 * count + 16)


@pytest.mark.parametrize("variance", ["absolute", "relative"])
def test_variance_survives_a_large_mean(variance: str) -> None:
    # std/mean = 1e-4 in float32: Σg² − (Σg)²/K would be all rounding (u·mean² = 6 v).
    random = np.random.default_rng(0)
    K, P = 5, 50
    gradients = 1 + 1e-4 * random.standard_normal((K, P))
    gradients = gradients.astype(np.float32)
    # k·margin is half of the typical v, so that m = tanh(~0.5) moves with v.
    k = 1e-8
    stack = torch.tensor(gradients)
    expected = reference.sand_mask(gradients.astype(np.float64), 0.5, k, variance)
    # The mean is off by u, 6e-4 std; that enters the two-pass v squared, 4e-7. Besides v:
    # five roundings of u = 6e-8.
    update = SANDMask(0.5, k, variance)(stack)  # type: ignore[arg-type]
    np.testing.assert_allclose(update.numpy(), expected, rtol=2e-6)
    # The test sees v: with a constant v, all components would be nearly 1.
    assert np.ptp(expected) > 1


@pytest.mark.parametrize("variance", ["absolute", "relative"])
@pytest.mark.parametrize("value", [1e-3, 0.1, 7.0])
def test_equal_gradients_are_weighted_by_the_limit(value: float, variance: str) -> None:
    # m = 1 where |mean sign| > τ: the agreeing component whole, the silent one not at all.
    gradients = torch.tensor([[value, 0.0]]).repeat(3, 1)
    update = SANDMask(0.5, 10.0, variance)(gradients)  # type: ignore[arg-type]
    assert update.tolist() == pytest.approx([2 * gradients[0, 0].item(), 0.0], rel=1e-6)


def test_equal_gradients_with_a_threshold_next_to_1() -> None:
    assert SANDMask(1 - 1e-8)(torch.tensor([[1.0], [1.0]])).item() == 1.0


def test_rounding_of_the_mean_does_not_pass_for_variance() -> None:
    # The float32 mean of 11 equal gradients of 3e7 is off by 2, and k·(1 − τ) is 5.
    large, small = 1e8 / 3, 1.0
    gradients = torch.tensor([[large, small]]).repeat(11, 1)
    update = SANDMask(0.5, 10.0)(gradients)
    assert update.tolist() == pytest.approx([large, small], rel=1e-6)


@pytest.mark.parametrize("K", [2, 3, 7, 10, 49, 127, 128, 200])
def test_no_tie_is_kept(K: int) -> None:
    sums = np.arange(1, K + 1)
    gradients = torch.tensor(np.arange(K)[:, None] < sums, dtype=torch.float32)
    for tie in range(K):
        kept = SANDMask(tie / K)(gradients) != 0
        np.testing.assert_array_equal(kept.numpy(), sums > tie)
        if tie > 0:
            kept = SANDMask(tie / K - 1e-6)(gradients) != 0
            np.testing.assert_array_equal(kept.numpy(), sums >= tie)


def test_absolute_variance_depends_on_the_scale_of_the_gradients() -> None:
    gradients = torch.tensor([[1.0, 1.0], [3.0, 1.5]], dtype=torch.float64)
    rule = SANDMask(0.5, 1.0)
    update, scaled = rule(gradients), rule(100 * gradients) / 100
    # v = 2 and 1/8: m = tanh(1/4) and tanh(4). At 100 times the size, m is tanh(x) ≈ x, so the
    # ratio of the two m is that of the 1/v, 16.
    assert (update[1] / update[0] / (1.25 / 2)).item() == pytest.approx(
        math.tanh(4) / math.tanh(1 / 4)
    )
    assert (scaled[1] / scaled[0] / (1.25 / 2)).item() == pytest.approx(16, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-15, 1e-8, 1.0, 1e8, 1e15])
def test_relative_variance_holds_at_every_scale(scale: float) -> None:
    # "k means the same for every tensor, model and loss scale".
    gradients = np.array([[1.0, 1.0, -1.0], [3.0, 1.5, 1.0]])
    expected = reference.sand_mask(gradients, 0.5, 1.0, "relative") * scale
    stack = torch.tensor(gradients * scale, dtype=torch.float32)
    update = SANDMask(0.5, 1.0, "relative")(stack)
    # About ten roundings of u = 6e-8.
    np.testing.assert_allclose(update.double().numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("small", [1e-23, 1e-30])
def test_relative_variance_that_underflows_leaves_the_update_finite(small: float) -> None:
    # What a saturated softmax leaves in float32; its square is 0 there.
    gradients = torch.tensor([[small, 1.0], [3 * small, 1.0]])
    update = SANDMask(0.5, 1.0, "relative")(gradients)
    # The component of equal gradients has m = 1, and the mean of m is between 1/2 and 1.
    assert update.isfinite().all()
    assert 1 <= update[1] <= 2


def test_scale_is_per_tensor_of_a_model() -> None:
    random = np.random.default_rng(0)
    tensors = [
        torch.tensor(random.standard_normal((3, *shape)), dtype=torch.float32)
        for shape in ((4, 5), (20,))
    ]
    rule = SANDMask(0.5, 1.0)
    updates = of_model(rule, tensors)
    for tensor, update in zip(tensors, updates, strict=True):
        expected = reference.sand_mask(rows(tensor), 0.5, 1.0)
        assert_close(update, expected, tensor, gain=20, relative=40)


@pytest.mark.parametrize("tau", [1.0, 1.5, float("inf"), 1 - 1e-12])
def test_refuses_a_threshold_that_never_trains(tau: float) -> None:
    with pytest.raises(ValueError, match=rf"never trains.*found {tau}"):
        SANDMask(tau)


@pytest.mark.parametrize("tau", [-0.01, float("nan")])
def test_refuses_a_threshold_that_is_no_share(tau: float) -> None:
    with pytest.raises(ValueError, match=rf"0 ≤ tau < 1.*found {tau}"):
        SANDMask(tau)


@pytest.mark.parametrize("k", [0.0, -1.0, float("nan"), float("inf")])
def test_refuses_a_steepness_that_is_not_positive(k: float) -> None:
    with pytest.raises(ValueError, match=rf"k > 0.*found {k}"):
        SANDMask(k=k)


def test_refuses_an_unknown_variance() -> None:
    with pytest.raises(ValueError, match=r"'absolute' or 'relative'; found 'biased'"):
        SANDMask(variance="biased")  # type: ignore[arg-type]
