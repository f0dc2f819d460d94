from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from domaingrad.rules import ANDMask
from tests.reference import rules as reference
from tests.reference.closeness import assert_close
from tests.reference.matrices import COUNTS, DTYPES, KINDS, rows, stacks

from .variants import of_model

LARGEST_LOG = 23.1  # |log(1e-10)|, the largest |log(|g| + 1e-10)| up to 1e8


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tau", [0.0, 1 / 3, 0.6, 1.0])
def test_equation(tau: float, kind: str, count: int, dtype: torch.dtype) -> None:
    for stack in stacks(kind, count, dtype):
        expected = reference.and_mask(rows(stack), tau, rescale=False)
        assert_close(ANDMask(tau, rescale=False)(stack), expected, stack)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tau", [0.6, 1.0])
def test_equation_with_rescale(tau: float, kind: str, count: int, dtype: torch.dtype) -> None:
    for stack in stacks(kind, count, dtype):
        expected = reference.and_mask(rows(stack), tau, rescale=True)
        # One of P components kept is scaled by P.
        assert_close(ANDMask(tau)(stack), expected, stack, gain=stack[0].numel())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rescale", [False, True])
def test_equation_with_geometric_mean(
    rescale: bool, kind: str, count: int, dtype: torch.dtype
) -> None:
    for stack in stacks(kind, count, dtype):
        expected = reference.and_mask(rows(stack), 0.6, rescale, "geometric")
        # The exponent is a sum of K logarithms over K; its absolute is the update's relative error.
        relative = 2 * count * LARGEST_LOG
        update = ANDMask(0.6, rescale, "geometric")(stack)
        assert_close(update, expected, stack, gain=stack[0].numel(), relative=relative)


def signs(sums: list[int], K: int, nonzero: Callable[[int], int]) -> Tensor:
    """Gradients ±1 and 0 whose sign sums are ``sums``, from ``nonzero(sum)`` domains each."""
    columns = []
    for total in sums:
        active = nonzero(total)
        positive = (active + total) // 2
        assert 2 * positive - active == total
        columns.append([1.0] * positive + [-1.0] * (active - positive) + [0.0] * (K - active))
    return torch.tensor(columns).T


@pytest.mark.parametrize(
    ("K", "tau", "tie"), [(5, 0.6, 3), (10, 0.7, 7), (3, 1 / 3, 1), (10, 0.3, 3), (200, 0.29, 58)]
)
def test_a_tie_at_the_threshold_is_kept(K: int, tau: float, tie: int) -> None:
    # Sums of the parity of K need no zero; of the other parity, one domain with a zero.
    gradients = signs(
        [tie, -tie, tie - 1, 1 - tie], K, lambda total: K if (K - total) % 2 == 0 else K - 1
    )
    kept = ANDMask(tau, rescale=False)(gradients) != 0
    # tie − 1 = 0 for K = 3: kept or not, its mean is 0.
    assert kept.tolist() == [True, True, False, False]


@pytest.mark.parametrize("K", [2, 3, 7, 10, 49, 127, 128, 200])
def test_every_tie_is_kept_and_nothing_below(K: int) -> None:
    gradients = signs(list(range(1, K + 1)), K, lambda total: total)
    sums = np.arange(1, K + 1)
    for tie in range(1, K + 1):
        kept = ANDMask(tie / K, rescale=False)(gradients) != 0
        np.testing.assert_array_equal(kept.numpy(), sums >= tie)
        if tie < K:
            kept = ANDMask(tie / K + 1e-6, rescale=False)(gradients) != 0
            np.testing.assert_array_equal(kept.numpy(), sums > tie)


def test_tau_0_keeps_everything() -> None:
    gradients = torch.tensor([[3.0, 1.0], [-1.0, 1.0]])
    assert ANDMask(tau=0.0)(gradients).tolist() == [1.0, 1.0]


def test_nothing_kept_gives_zeros() -> None:
    gradients = torch.tensor([[1.0, -2.0], [-1.0, 3.0]])
    for average in ("arithmetic", "geometric"):
        assert ANDMask(average=average)(gradients).tolist() == [0.0, 0.0]


def test_rescale_is_as_precise_as_the_gradients() -> None:
    for kept in range(1, 8):
        # A component counts as agreeing in the first `kept` of 7.
        gradients = torch.ones(2, 7, dtype=torch.float64)
        gradients[1, kept:] = -1
        scale = ANDMask()(gradients)[0].item()
        # Three roundings in float64; in float32 even the 1e-10 would be lost.
        assert scale == pytest.approx(1 / (1e-10 + kept / 7), rel=4 * 2.0**-53)


def test_scale_is_per_tensor_of_a_model() -> None:
    random = np.random.default_rng(0)
    tensors = [
        torch.tensor(random.standard_normal((3, *shape)), dtype=torch.float32)
        for shape in ((4, 5), (20,))
    ]
    rule = ANDMask()
    updates = of_model(rule, tensors)
    for tensor, update in zip(tensors, updates, strict=True):
        assert_close(update, reference.and_mask(rows(tensor)), tensor, gain=20)


def test_geometric_mean_scales_only_far_above_its_floor() -> None:
    rule = ANDMask(rescale=False, average="geometric")
    gradients = torch.tensor([[1.0], [4.0]], dtype=torch.float64)
    # d log(g + 1e-10) / d log g = 1 − 1e-10 / g: doubling is off by less than 1e-10.
    assert rule(2 * gradients).item() == pytest.approx(2 * rule(gradients).item(), rel=1e-10)
    small = 1e-10 * gradients
    # √((2+1)(8+1)) / √((1+1)(4+1)) = √2.7
    ratio = rule(2 * small).item() / rule(small).item()
    assert ratio == pytest.approx(2.7**0.5, rel=1e-6)


@pytest.mark.parametrize("tau", [-0.01, 1.01, float("nan"), float("inf")])
def test_refuses_a_threshold_that_is_no_share(tau: float) -> None:
    with pytest.raises(ValueError, match=rf"0 ≤ tau ≤ 1.*found {tau}"):
        ANDMask(tau)


def test_refuses_an_unknown_average() -> None:
    with pytest.raises(ValueError, match=r"'arithmetic' or 'geometric'; found 'median'"):
        ANDMask(average="median")  # type: ignore[arg-type]
