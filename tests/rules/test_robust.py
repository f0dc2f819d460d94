"""Median and trimmed mean: the equations, and what becomes of them in a model."""

import numpy as np
import pytest
import torch
from torch import nn

import domaingrad as dg
from domaingrad.rules import Median, Rule, TrimmedMean, from_torchjd
from tests.reference.matrices import COUNTS, DTYPES, KINDS, rows, stacks


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", KINDS)
def test_equations(kind: str, count: int, dtype: torch.dtype) -> None:
    for stack in stacks(kind, count, dtype):
        G = rows(stack)
        near = {"rtol": 4 * torch.finfo(dtype).eps, "atol": count * torch.finfo(dtype).tiny}
        largest = np.abs(G).max(0)
        for rule, expected in (
            (Median(), np.median(G, 0)),
            (TrimmedMean(0.3), trimmed(G, int(0.3 * count))),
            (TrimmedMean(0.0), G.mean(0)),
        ):
            off = np.abs(rule(stack).flatten().double().numpy() - expected)
            assert (off <= near["rtol"] * largest + near["atol"]).all(), rule


def trimmed(G: np.ndarray, cut: int) -> np.ndarray:
    kept = np.sort(G, 0)[cut : len(G) - cut]
    return kept.mean(0)


@pytest.mark.parametrize("beta", [-0.1, 0.5, float("nan")])
def test_a_share_that_leaves_nothing_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match=r"0 ≤ beta < 0\.5.*found"):
        TrimmedMean(beta)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("rule", [Median(), TrimmedMean(0.25)], ids=repr)
def test_a_value_that_is_not_finite_is_not_cut_off(rule: Rule, value: float) -> None:
    gradients = torch.ones(4, 3)
    gradients[1, 2] = value
    assert rule(gradients).isnan().tolist() == [False, False, True]


def in_torchjd(name: str, **options: int) -> Rule:
    aggregation = pytest.importorskip("torchjd.aggregation")
    return from_torchjd(getattr(aggregation, name)(**options))


@pytest.mark.parametrize("way", ["mixed batch", "domain by domain", "accumulated"])
@pytest.mark.parametrize(
    ("make", "combine"),
    [
        (Median, lambda G: np.median(G, 0)),
        (lambda: TrimmedMean(0.3), lambda G: trimmed(G, 1)),
        (lambda: in_torchjd("TrimmedMean", trim_number=1), lambda G: trimmed(G, 1)),
    ],
)
def test_in_a_model(make, combine, way: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 120), nn.Tanh(), nn.Linear(120, 90), nn.Tanh())
    model = model.append(nn.Linear(90, 1)).double()  # 10,800 components are a block of their own
    x, domain = torch.randn(24, 5).double(), torch.arange(4).repeat(6)
    agree = dg.GradientAgreement(model, make())
    if way == "mixed batch":
        agree.backward(agree(x, domain)[:, 0].square())
    elif way == "accumulated":
        for half in (slice(12), slice(12, 24)):
            agree.accumulate(agree(x[half], domain[half])[:, 0].square())
        agree.combine()
    else:
        for label in range(4):
            with agree.domain(label):
                model(x[domain == label])[:, 0].square().mean().backward()
        agree.combine()
    found = [parameter.grad.clone() for parameter in model.parameters()]
    separate = []
    for label in range(4):
        model.zero_grad()
        model(x[domain == label])[:, 0].square().mean().backward()
        separate.append([p.grad.numpy().copy() for p in model.parameters()])
    for update, *G in zip(found, *separate, strict=True):
        np.testing.assert_allclose(update.numpy(), combine(np.stack(G)), rtol=1e-9, atol=1e-14)


def test_grad_drop_draws_from_its_generator() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    gradients = torch.randn(3, 200)
    state = torch.get_rng_state()
    rule = from_torchjd(aggregation.GradDrop(), torch.Generator().manual_seed(1))
    first, second = rule(gradients), rule(gradients)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first, second)
    again = from_torchjd(aggregation.GradDrop(), torch.Generator().manual_seed(1))
    assert torch.equal(again(gradients), first)
    # Each component is the sum of its positive or of its negative values.
    positive, negative = gradients.clamp(min=0).sum(0), gradients.clamp(max=0).sum(0)
    near = [torch.isclose(first, part, atol=1e-6) for part in (positive, negative)]
    assert (near[0] | near[1]).all()
