"""Named properties of the rules, on matrices that hypothesis draws."""

from collections.abc import Callable

import hypothesis.extra.numpy as drawn
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from domaingrad.rules import Rule
from tests.reference import rules as reference

from .variants import VARIANTS

reproducible = settings(max_examples=50, deadline=None, derandomize=True, database=None)

# Six decimals: no products that underflow. Quarters: ties, cancellations and zeros.
NUMBERS = st.one_of(
    st.integers(-8, 8).map(lambda n: n / 4),
    st.floats(-100, 100).map(lambda x: round(x, 6)),
)


def matrices(fewest: int = 2, most: int = 7) -> st.SearchStrategy[Tensor]:
    """Gradients [K, P] in float64, of ``fewest`` to ``most`` domains."""
    return st.tuples(st.integers(fewest, most), st.integers(1, 6)).flatmap(
        lambda shape: drawn.arrays(np.float64, shape, elements=NUMBERS).map(torch.tensor)
    )


def assert_equal_up_to_rounding(actual: Tensor, expected: Tensor, G: Tensor, c: float = 1) -> None:
    # Sums in another order differ by K·u·max|g|; the rescale multiplies that by P at most, the
    # projections by a few: 1e-11 of the largest gradient is some 1000 times u = 1e-16 · K · P.
    bound = 1e-11 * c * G.abs().max().item()
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=bound)


DETERMINISTIC = [name for name in VARIANTS if "rand" not in name and name != "pcgrad"]


@pytest.mark.parametrize("name", DETERMINISTIC)
@reproducible
@given(G=matrices(), random=st.randoms(use_true_random=False))
def test_permutation_invariance(name: str, G: Tensor, random) -> None:
    order = list(range(len(G)))
    random.shuffle(order)
    rule = VARIANTS[name]()
    assert_equal_up_to_rounding(rule(G[order]), rule(G), G)


@reproducible
@given(G=matrices(most=2))
def test_permutation_invariance_of_pcgrad_with_two_domains(G: Tensor) -> None:
    rule = VARIANTS["pcgrad"]()
    assert_equal_up_to_rounding(rule(G.flip(0)), rule(G), G)


@reproducible
@given(G=matrices(), random=st.randoms(use_true_random=False))
def test_permutation_invariance_of_agr_rand(G: Tensor, random) -> None:
    # The same generator and the same s: even the noise is that of the unpermuted domains.
    order = list(range(len(G)))
    random.shuffle(order)
    make = VARIANTS["agr-rand"]
    assert_equal_up_to_rounding(make()(G[order]), make()(G), G)


@pytest.mark.parametrize("name", [*DETERMINISTIC, "pcgrad"])
@reproducible
@given(G=matrices())
def test_sign_flip(name: str, G: Tensor) -> None:
    # Exact, because negation is: every sum and product rounds alike.
    make = VARIANTS[name]
    assert torch.equal(make()(-G), -make()(G))


@reproducible
@given(G=matrices())
def test_sign_flip_of_agr_rand_where_domains_agree(G: Tensor) -> None:
    make, agree = VARIANTS["agr-rand"], torch.tensor(reference.agree(G.numpy()))
    assert torch.equal(make()(-G)[agree], -make()(G)[agree])
    # The noise keeps its sign: it is drawn without regard to the gradients.
    assert torch.equal(make()(-G)[~agree], make()(G)[~agree])


@pytest.mark.parametrize(
    "name",
    ["mean", "and", "and-0.6", "and-rescaled", "sand-relative", "agr-sum", "agr-rand", "pcgrad"],
)
@reproducible
@given(G=matrices(), c=st.floats(1e-6, 1e6))
def test_positive_scaling(name: str, G: Tensor, c: float) -> None:
    # AgrRand's noise scales too, with s.
    make = VARIANTS[name]
    assert_equal_up_to_rounding(make()(c * G), c * make()(G), G, c)


@pytest.mark.parametrize("make", VARIANTS.values(), ids=VARIANTS)
@reproducible
@given(g=drawn.arrays(np.float64, 5, elements=NUMBERS), K=st.integers(2, 7))
def test_one_gradient_in_every_domain(make: Callable[[], Rule], g: np.ndarray, K: int) -> None:
    """With nothing to disagree on, every update is a positive multiple of the gradient."""
    G = torch.tensor(np.tile(g, (K, 1)))
    silent = torch.tensor(g == 0)
    update = make()(G)
    ratio = (update / G[0])[~silent]
    if ratio.numel():
        # Sums of K equal numbers, and for the geometric mean exp(log): 1e-12 is 1e4 u; plus the
        # floor 1e-10 of the logarithm beside gradients of at least 1e-6.
        assert ratio.min() > 0
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1.1e-4, atol=0)
