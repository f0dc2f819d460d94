import numpy as np
import pytest
import torch
from torchjd.aggregation import PCGrad as TorchJDPCGrad

from domaingrad.rules import PCGrad
from tests.reference import rules as reference
from tests.reference.matrices import DTYPES, KINDS, matrix, rows, stacks
from tests.reference.rules import Array

from .variants import seeded

# Every pair conflicts, and each combination of orders has its own result.
CONFLICTING = np.array([[1.0, 0.0, 0.2], [-0.5, 0.9, 0.1], [-0.4, -0.7, 0.5]])


def bound(G: Array, dtype: torch.dtype) -> float:
    """K projections, each off by a few u of the longest gradient, and the rounding to the dtype."""
    u = 2.0**-53 if dtype == torch.float64 else 2.0**-24
    out = torch.finfo(dtype).eps if dtype.itemsize == 2 else 0.0
    longest = np.linalg.norm(G, axis=1).max()
    return len(G) * longest * (16 * u + out) + torch.finfo(dtype).smallest_normal


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_two_domains(kind: str, dtype: torch.dtype) -> None:
    for stack in stacks(kind, 2, dtype):
        if stack.ndim == 1:
            continue
        update = PCGrad()(stack)
        assert update.dtype == dtype
        assert update.shape == stack.shape[1:]
        expected = reference.pcgrad(rows(stack), [[1], [0]])
        error = np.abs(update.double().flatten().numpy() - expected).max()
        assert error <= bound(rows(stack), dtype)


def test_scalar_parameter() -> None:
    # Conflicting scalars project to nothing; agreeing ones add up.
    assert PCGrad()(torch.tensor([1.0, -3.0])).item() == pytest.approx(
        0, abs=1e-6
    )  # 4 − 4, rounded
    assert PCGrad()(torch.tensor([1.0, 3.0])).item() == 4.0


@pytest.mark.parametrize("kind", KINDS)
def test_two_domains_against_torchjd(kind: str) -> None:
    G = torch.tensor(matrix(kind, 2, 12))
    # Few roundings in float64.
    torch.testing.assert_close(PCGrad()(G), TorchJDPCGrad()(G), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("K", [3, 4])
def test_some_order_of_the_others_gives_the_update(K: int, kind: str, dtype: torch.dtype) -> None:
    stack = torch.tensor(matrix(kind, K, 6), dtype=dtype)
    G = rows(stack)
    expected = reference.pcgrad_of_all_orders(G)
    for seed in range(5):
        update = PCGrad(seeded(seed))(stack).double().numpy()
        error = np.abs(expected - update).max(axis=1).min()
        assert error <= bound(G, dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("K", [5, 16, 130, 200])
def test_conflicts_within_pairs(K: int, dtype: torch.dtype) -> None:
    # Each pair of domains has four components of its own, so the order over the others is free.
    G = np.zeros((K, 4 * ((K + 1) // 2)))
    random = np.random.default_rng(K)
    for i in range(K):
        pair = i // 2
        G[i, 4 * pair : 4 * pair + 4] = random.standard_normal(4)
    stack = torch.tensor(G, dtype=dtype)
    expected = reference.pcgrad_in_order(rows(stack))
    error = np.abs(PCGrad()(stack).double().numpy() - expected).max()
    assert error <= bound(rows(stack), dtype)
    # Not the plain sum.
    assert np.abs(expected - G.sum(axis=0)).max() > 0.1


def test_every_combination_of_orders_occurs() -> None:
    # One shuffle for all i (as in DGvGS) would give 6 orders of 3 domains, no order only one.
    results = reference.pcgrad_of_all_orders(CONFLICTING)
    distances = np.abs(results[:, None] - results[None]).max(axis=2)
    assert distances[~np.eye(8, dtype=bool)].min() > 1e-3
    drawn = np.zeros(8, dtype=int)
    stack = torch.tensor(CONFLICTING)
    draws = 400
    for seed in range(draws):
        error = np.abs(results - PCGrad(seeded(seed))(stack).numpy()).max(axis=1)
        assert error.min() < 1e-12
        drawn[error.argmin()] += 1
    # Each is drawn 50 times on average; 4.5 standard deviations of Binomial(400, 1/8) are 30.
    assert drawn.min() >= 20
    assert drawn.max() <= 80


def test_orders_are_drawn_anew_at_every_call() -> None:
    rule, stack = PCGrad(seeded()), torch.tensor(CONFLICTING)
    # 40 draws of one of 8 results: fewer than 4 different ones have probability below 1e-10.
    assert len({tuple(rule(stack).tolist()) for _ in range(40)}) >= 4


def test_no_conflict_gives_the_sum() -> None:
    G = np.abs(matrix("generic", 16, 12))
    update = PCGrad()(torch.tensor(G))
    np.testing.assert_allclose(update.numpy(), G.sum(axis=0), rtol=1e-13)


@pytest.mark.parametrize("K", [2, 3, 5])
def test_zero_gradients_change_nothing(K: int) -> None:
    stack = torch.zeros(K, 3)
    assert PCGrad()(stack).tolist() == [0.0, 0.0, 0.0]
    stack[-1] = torch.tensor([1.0, -2.0, 0.5])
    assert PCGrad()(stack).tolist() == [1.0, -2.0, 0.5]


@pytest.mark.parametrize("small", [1e-20, 1e-23, 1e-30, 1e-45])
def test_a_domain_with_a_tiny_gradient_leaves_the_update_finite(small: float) -> None:
    # ‖g_2‖² is 0 in float32, ⟨g_1, g_2⟩ is not.
    stack = torch.tensor([[1.0, 0.0], [-small, small]])
    assert PCGrad()(stack).isfinite().all()


@pytest.mark.parametrize("small", [1e-8, 1e-15, 1e-23, 1e-30])
def test_a_domain_with_a_tiny_gradient(small: float) -> None:
    # A domain that is fitted already; in float32 the square of 1e-23 is 0.
    stack = torch.tensor([[1.0, 0.0], [-small, small]])
    # g_1' = g_1 − ⟨g_1, g_2⟩/‖g_2‖² g_2 = (1/2, 1/2), whatever the size of g_2; g_2' = (0, small).
    expected = [0.5, 0.5 + small]
    assert PCGrad()(stack).tolist() == pytest.approx(expected, rel=1e-6, abs=0)


@pytest.mark.parametrize("scale", [1e-15, 1e15, 1e-25, 1e25])
def test_conflict_is_seen_at_every_scale(scale: float) -> None:
    stack = torch.tensor([[1.0, 0.0], [-1.0, 1.0]]) * scale
    expected = [0.5 * scale, 1.5 * scale]
    assert PCGrad()(stack).tolist() == pytest.approx(expected, rel=1e-6, abs=0)
