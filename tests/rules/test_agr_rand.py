import numpy as np
import pytest
import torch

from domaingrad.rules import AgrRand
from tests.reference import rules as reference
from tests.reference.closeness import assert_close
from tests.reference.matrices import COUNTS, DTYPES, KINDS, rows, stacks

from .variants import of_model, seeded


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", KINDS)
def test_agreeing_components_are_the_sum_and_silent_ones_zero(
    kind: str, count: int, dtype: torch.dtype
) -> None:
    for stack in stacks(kind, count, dtype):
        G = rows(stack)
        certain = reference.agree(G) | reference.silent(G)
        # Noise elsewhere, unless nothing agrees and s = 0.
        drawn = ~certain & (reference.agr_noise_scale(G) > 0)
        update = AgrRand(seeded())(stack).flatten()
        assert (update[torch.tensor(drawn)] != 0).all()
        shown = torch.tensor(~drawn)
        flat = stack.reshape(count, -1)[:, shown]
        assert_close(update[shown], reference.agr_sum(G)[~drawn], flat, gain=count)


def assert_normal(sample: torch.Tensor, std: float) -> None:
    """Moments and shares of N(0, std²), each within 4.5 of its own standard errors (7 in 1e6)."""
    z, n = sample.double() / std, sample.numel()
    assert abs(z.mean().item()) < 4.5 / n**0.5
    assert abs(z.std().item() - 1) < 4.5 / (2 * n) ** 0.5
    for width, share in ((1, 0.682689), (2, 0.954500), (3, 0.997300)):
        error = (share * (1 - share) / n) ** 0.5
        assert abs((z.abs() < width).double().mean().item() - share) < 4.5 * error


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scale", [2.0**-27, 1.0, 2.0**27])
def test_noise_is_normal_with_the_mean_size_of_agreeing_components(
    scale: float, dtype: torch.dtype
) -> None:
    n = 100_000
    gradients = torch.ones(2, n + 2, dtype=dtype) * scale
    gradients[1, :n] = -scale
    # The agreeing components sum to 2 and −8: s = 5.
    gradients[:, n] = scale
    gradients[:, n + 1] = -4 * scale
    update = AgrRand(seeded(7))(gradients)
    # bfloat16 rounds each draw by 2^-9 at most, far below the tests' width of 4.5/√(2n) = 1e-2.
    assert_normal(update[:n], std=5 * scale)
    assert (update[n:].double() / scale).tolist() == [2.0, -8.0]


def test_noise_is_scaled_over_the_whole_model() -> None:
    n = 50_000
    disagreeing = torch.stack([torch.ones(n), -torch.ones(n)])
    agreeing = torch.tensor([[1.0, 2.0], [1.0, 4.0]])
    rule = AgrRand(seeded())
    updates = of_model(rule, [disagreeing, agreeing])
    # s = (2 + 6) / 2, from a tensor other than the one that gets the noise.
    assert_normal(updates[0], std=4.0)
    assert updates[1].tolist() == [2.0, 6.0]


def test_tensors_of_a_model_get_different_noise() -> None:
    gradients = torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, 1.0]])
    rule = AgrRand(seeded())
    one, other = of_model(rule, [gradients, gradients])
    assert (one[:2] != other[:2]).all()


def test_zero_where_nothing_agrees() -> None:
    gradients = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    for rule in (AgrRand(seeded()), AgrRand(seeded(), noise_where_silent=True)):
        assert rule(gradients).tolist() == [0.0, 0.0]


def test_noise_where_silent_is_a_switch() -> None:
    gradients = torch.tensor([[3.0, 0.0, 1.0], [3.0, 0.0, 0.0]])
    # The second component is silent; the third is not, though one domain is.
    assert (AgrRand(seeded())(gradients) != 0).tolist() == [True, False, True]
    noisy = AgrRand(seeded(), noise_where_silent=True)
    assert (noisy(gradients) != 0).tolist() == [True, True, True]


def test_noise_where_silent_has_full_size() -> None:
    gradients = torch.zeros(2, 50_001)
    gradients[:, 0] = 3.0
    update = AgrRand(seeded(), noise_where_silent=True)(gradients)
    assert_normal(update[1:], std=6.0)


def test_every_call_draws_anew() -> None:
    gradients = torch.tensor(np.tile([[1.0], [-1.0]], 100))
    gradients[:, 0] = 1.0
    rule = AgrRand(seeded())
    assert (rule(gradients)[1:] != rule(gradients)[1:]).all()
