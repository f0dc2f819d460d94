"""Similarity within and between domains, against loops over pairs."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from domaingrad.inspect import similarity
from domaingrad.inspect.similarity import _dealt, _interval

DOMAIN = torch.arange(4).repeat_interleave(30)
LABEL = torch.arange(120) % 3


def drawn(spread: float) -> Tensor:
    """A direction a domain and class; the domains' share grows with ``spread``."""
    generator = torch.Generator().manual_seed(2)
    of_class = torch.randn(3, 8, generator=generator)
    of_both = torch.randn(4, 3, 8, generator=generator)
    noise = 0.3 * torch.randn(120, 8, generator=generator)
    return (of_class[LABEL] + spread * of_both[DOMAIN, LABEL] + noise).double()


def literal(x: Tensor, units: Tensor) -> tuple[list[float], list[float]]:
    """Cosines of the batches' mean inputs, which are the gradients of a linear sum."""
    intra, inter = [], []
    numbers = [int(unit) for unit in units.unique()]
    means = {unit: x[units == unit].mean(0).numpy() for unit in numbers}
    kinds = {
        unit: (int(DOMAIN[units == unit][0]), int(LABEL[units == unit][0])) for unit in numbers
    }
    for one, other in itertools.combinations(numbers, 2):
        if kinds[one][1] != kinds[other][1]:
            continue
        a, b = means[one], means[other]
        cosine = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
        (intra if kinds[one][0] == kinds[other][0] else inter).append(cosine)
    return intra, inter


@pytest.mark.parametrize("batches", [2, 3])
def test_means_are_those_over_pairs_of_one_class(batches):
    x, model = drawn(1.0), nn.Linear(8, 1, bias=False).double()
    found = similarity(
        model, x, lambda out: out[:, 0], DOMAIN, LABEL, batches=batches,
        generator=torch.Generator().manual_seed(5),
    )  # fmt: skip
    units = _dealt(DOMAIN, LABEL, batches, torch.Generator().manual_seed(5))
    intra, inter = literal(x, units)
    assert found.intra.pairs == len(intra) == 12 * batches * (batches - 1) // 2
    assert found.inter.pairs == len(inter) == 3 * 6 * batches**2
    assert found.intra.mean == pytest.approx(np.mean(intra))
    assert found.inter.mean == pytest.approx(np.mean(inter))


def test_domains_that_differ_are_told_from_domains_that_do_not():
    model = nn.Linear(8, 1, bias=False).double()
    apart, alike = (
        similarity(
            model, drawn(spread), lambda out: out[:, 0], DOMAIN, LABEL,
            generator=torch.Generator().manual_seed(5),
        )
        for spread in (1.0, 0.0)
    )  # fmt: skip
    assert apart.inter.high < apart.intra.low
    assert alike.inter.low < alike.intra.mean < alike.inter.high


def test_batches_are_of_one_domain_and_class_and_equal_in_size():
    units = _dealt(DOMAIN, LABEL, 3, torch.Generator().manual_seed(0))
    assert sorted(units.unique().tolist()) == list(range(36))
    for unit in range(36):
        rows = units == unit
        assert len(DOMAIN[rows].unique()) == len(LABEL[rows].unique()) == 1
        assert rows.sum() in (3, 4)


def test_the_interval_is_that_of_a_bootstrap_by_loops():
    generator = torch.Generator().manual_seed(3)
    cosines = torch.rand(6, 6, generator=generator, dtype=torch.float64)
    pairs = torch.ones(6, 6, dtype=torch.bool).triu(1)
    found = _interval(cosines, pairs, torch.Generator().manual_seed(9))
    draws = torch.randint(6, (1000, 6), generator=torch.Generator().manual_seed(9))
    means = []
    for draw in draws.tolist():
        # Each unordered pair once, and as the marks are above the diagonal, in their order.
        values = [cosines[i, j].item() for i in draw for j in draw if i < j]
        if values:
            means.append(np.mean(values))
    low, high = np.quantile(means, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.low < found.mean < found.high


def test_bad_input_is_told():
    x, model = drawn(1.0), nn.Linear(8, 1).double()
    with pytest.raises(ValueError, match="at least 2"):
        similarity(model, x, lambda out: out[:, 0], DOMAIN, LABEL, batches=1)
    with pytest.raises(ValueError, match="has 10 samples of class 0, too few for 11 batches"):
        similarity(model, x, lambda out: out[:, 0], DOMAIN, LABEL, batches=11)
    with pytest.raises(ValueError, match="no class is in two domains"):
        similarity(model, x, lambda out: out[:, 0], DOMAIN, DOMAIN)


def test_nothing_is_drawn_from_the_global_generator():
    x, model = drawn(1.0), nn.Linear(8, 1, bias=False).double()
    before = torch.get_rng_state()
    first = similarity(model, x, lambda out: out[:, 0], DOMAIN, LABEL)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert similarity(model, x, lambda out: out[:, 0], DOMAIN, LABEL) == first
