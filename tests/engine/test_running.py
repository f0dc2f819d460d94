"""Statistics fed one domain at a time against float64 over all domains at once."""

import math
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from torch import Tensor

from domaingrad.engine import RunningStatistics
from domaingrad.rules import AgrSum, ANDMask, Mean, SANDMask
from domaingrad.rules.authoring import Statistic, Statistics, statistics_of
from tests.reference import rules as reference
from tests.reference.closeness import assert_close, roundoff
from tests.reference.matrices import DTYPES, KINDS, matrix, rows

NAMES: tuple[Statistic, ...] = ("mean", "m2", "sign_sum", "active", "log_sum")
COUNTS = (1, 2, 5, 127, 128, 130, 300)


def folded(gradients: Iterable[Tensor], names: Iterable[Statistic] = NAMES) -> RunningStatistics:
    running = RunningStatistics(names)
    for gradient in gradients:
        running.fold(gradient.clone())
    return running


def assert_statistics_of(statistics: Statistics, stack: Tensor) -> None:
    """All five statistics against NumPy in float64."""
    G, K = rows(stack), len(stack)
    assert statistics.count == K
    u, largest = roundoff(stack.dtype), np.abs(G).max(axis=0)

    def value(tensor: Tensor) -> np.ndarray:
        assert tensor.shape == stack.shape[1:]
        return tensor.double().flatten().numpy()

    # A sum of K numbers, whatever cancels: K·u of the largest.
    assert (np.abs(value(statistics.mean) - G.mean(axis=0)) <= 2 * K * u * largest).all()
    # Each of K terms (g − mean)² has g − mean off by K·u·max|g|, and their sum K·u more.
    squares = ((G - G.mean(axis=0)) ** 2).sum(axis=0)
    off = 2 * K * u * largest
    bound = 2 * off * np.sqrt(K * squares) + K * off**2 + 4 * K * u * squares
    assert (np.abs(value(statistics.m2) - squares) <= bound).all()
    np.testing.assert_array_equal(value(statistics.sign_sum), np.sign(G).sum(axis=0))
    np.testing.assert_array_equal(value(statistics.active), (G != 0).sum(axis=0))
    # |log| is at most 23.1 = |log 1e-10| here, and K of them are summed.
    logarithms = np.log(np.abs(G) + 1e-10).sum(axis=0)
    assert (np.abs(value(statistics.log_sum) - logarithms) <= 2 * K * K * u * 23.1).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", KINDS)
def test_one_domain_at_a_time(kind: str, count: int, dtype: torch.dtype) -> None:
    stack = torch.tensor(matrix(kind, count, 12), dtype=dtype).reshape(count, 3, 4)
    assert_statistics_of(folded(stack).statistics(), stack)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", KINDS)
def test_all_domains_at_once(kind: str, count: int, dtype: torch.dtype) -> None:
    stack = torch.tensor(matrix(kind, count, 12), dtype=dtype).reshape(count, 3, 4)
    assert_statistics_of(statistics_of(stack, NAMES), stack)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("count", COUNTS)
def test_signs_of_one_kind_do_not_overflow(count: int, sign: int) -> None:
    stack = sign * torch.ones(count, 2)
    for statistics in (folded(stack).statistics(), statistics_of(stack, NAMES)):
        assert statistics.sign_sum.tolist() == [sign * count] * 2
        assert statistics.active.tolist() == [count] * 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("before", "zeros", "after"),
    [
        (1, 1, 0),
        (2, 3, 4),
        (126, 1, 5),  # zeros end at the last count that fits int8
        (127, 1, 5),  # zeros step over it
        (100, 100, 100),
        (128, 2, 3),  # zeros begin behind it
        (3, 250, 60),
        (5, 0, 5),
    ],
)
def test_zeros_in_between(before: int, zeros: int, after: int, dtype: torch.dtype) -> None:
    for kind in ("generic", "zeros", "agreeing"):
        gradients = torch.tensor(matrix(kind, before + after, 12), dtype=dtype)
        running = folded(gradients[:before])
        running.fold_zeros(zeros)
        for gradient in gradients[before:]:
            running.fold(gradient.clone())
        blank = torch.zeros(zeros, 12, dtype=dtype)
        stack = torch.cat([gradients[:before], blank, gradients[before:]])
        assert_statistics_of(running.statistics(), stack)


@pytest.mark.parametrize("name", NAMES)
def test_each_statistic_alone(name: Statistic) -> None:
    stack = torch.tensor(matrix("zeros", 130, 12))
    running = folded(stack[:125], [name])
    running.fold_zeros(3)
    for gradient in stack[125:]:
        running.fold(gradient.clone())
    G = np.concatenate([rows(stack), np.zeros((3, 12))])
    expected = {
        "mean": G.mean(axis=0),
        "m2": ((G - G.mean(axis=0)) ** 2).sum(axis=0),
        "sign_sum": np.sign(G).sum(axis=0),
        "active": (G != 0).sum(axis=0),
        "log_sum": np.log(np.abs(G) + 1e-10).sum(axis=0),
    }
    statistics = running.statistics()
    # Sums of 133 numbers in float64: below 133² u = 2e-12 of the largest.
    for found in {name, "mean"}:
        value = getattr(statistics, found)
        np.testing.assert_allclose(value.numpy(), expected[found], rtol=1e-11, atol=1e-11)
    for other in set(NAMES) - {name, "mean"}:
        with pytest.raises(KeyError, match=other):
            getattr(statistics, other)


def test_variance_survives_a_large_mean() -> None:
    # std/mean = 1e-4 in float32. Σg² − (Σg)²/K is off by about u·K·mean² = 6e-8 K, six times
    # the m2 = 1e-8 (K − 1) that it should find.
    random = np.random.default_rng(0)
    for K in (2, 5, 130):
        gradients = (1 + 1e-4 * random.standard_normal((K, 50))).astype(np.float32)
        exact = gradients.astype(np.float64).var(axis=0) * K
        stack = torch.tensor(gradients)
        # Two passes: the mean is off by 2 u or less, which enters K times squared, besides K·u.
        at_once = statistics_of(stack, ["m2"]).m2.numpy()
        u = 2.0**-24
        np.testing.assert_allclose(at_once, exact, rtol=(K + 4) * u, atol=K * (2 * u) ** 2)
        # One pass: each step rounds the mean by up to u = 6e-4 std, which enters its deviation
        # once; 1 % is 17 of that, against a deviation that may be a tenth of the std.
        streamed = folded(stack, ["m2"]).statistics().m2.numpy()
        np.testing.assert_allclose(streamed, exact, rtol=1e-2, atol=1e-5 * 1e-8)


def test_sand_mask_on_streamed_statistics_with_a_large_mean() -> None:
    random = np.random.default_rng(0)
    gradients = (1 + 1e-4 * random.standard_normal((5, 50))).astype(np.float32)
    expected = reference.sand_mask(gradients.astype(np.float64), 0.5, 1e-8)
    rule = SANDMask(0.5, 1e-8)
    running = folded(torch.tensor(gradients), rule.statistics)
    # As above; tanh and the mean of m add no more than the same again.
    update = rule.update(running.statistics())
    np.testing.assert_allclose(update.numpy(), expected, rtol=1e-2)


@pytest.mark.parametrize("count", [2, 5, 130, 300])
@pytest.mark.parametrize("kind", KINDS)
def test_rules_on_streamed_statistics(kind: str, count: int) -> None:
    stack = torch.tensor(matrix(kind, count, 12), dtype=torch.float32)
    for rule, expected in (
        (Mean(), reference.mean(rows(stack))),
        (ANDMask(0.6), reference.and_mask(rows(stack), 0.6)),
        (AgrSum(), reference.agr_sum(rows(stack))),
    ):
        running = folded(stack, rule.statistics)
        update = rule.update(running.statistics())
        # AND-mask scales the mean by 12 at most, Agr-Sum by K.
        assert_close(update, expected, stack, gain=max(12, count))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    # 300 ones: bfloat16 stops counting at 256, float16 at 2048.
    gradients = torch.ones(3000, 1, dtype=dtype)
    for names in (["mean"], ["mean", "m2"]):
        statistics = folded(gradients, names).statistics()
        assert statistics.mean.dtype == torch.float32
        assert statistics.mean.item() == 1.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("names", [["mean"], ["mean", "m2"]], ids=str)
@pytest.mark.parametrize("position", range(3))
def test_non_finite_gradients_stay_visible(
    position: int, names: list[Statistic], value: float
) -> None:
    gradients = torch.ones(3, 2)
    gradients[position, 0] = value
    running = folded(gradients, names)
    running.fold_zeros(2)
    assert running.statistics().mean.isfinite().tolist() == [False, True]


def test_zeros_before_any_gradient_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one gradient before zeros"):
        RunningStatistics(["mean"]).fold_zeros(1)


def test_log_of_zeros_is_that_of_the_floor() -> None:
    running = folded(torch.ones(1, 1, dtype=torch.float64))
    running.fold_zeros(9)
    assert running.statistics().log_sum.item() == pytest.approx(9 * math.log(1e-10), rel=1e-12)
