"""A bad gradient of one domain stays visible, whatever the rule does."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import domaingrad as dg
from domaingrad.rules.authoring import ElementwiseRule, GramianRule, Proposal, Statistics

from .separate_passes import WAYS, Way


class HidingMask(ElementwiseRule):
    """Selects instead of multiplying: an infinity where the signs differ disappears."""

    statistics = frozenset({"mean", "sign_sum"})

    def propose(self, statistics: Statistics) -> Proposal:
        mean = torch.where(
            statistics.sign_sum.abs() == statistics.count,
            statistics.mean,
            torch.zeros_like(statistics.mean),
        )
        return Proposal(torch.nan_to_num(mean, 0.0, 0.0, 0.0))


class FirstOnly(GramianRule):
    """Takes the first domain and multiplies the others by nothing."""

    def weights(self, gramian: Tensor) -> Tensor:
        return torch.eye(len(gramian))[0].to(gramian)


RULES = [dg.Mean, dg.ANDMask, dg.SANDMask, dg.AgrSum, dg.AgrRand, dg.PCGrad, HidingMask, FirstOnly]


def run(rule: dg.rules.Rule, way: Way, bad: float, bad_label: int = 7) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    agree = dg.GradientAgreement(model, rule)
    x, domain = torch.randn(8, 3), torch.tensor([3, 7] * 4)
    factor = torch.ones(8)
    factor[(domain == bad_label).nonzero()[0]] = bad
    if way == "mixed batch":
        agree.backward(agree(x, domain).squeeze(1) * factor)
    else:
        for label in (3, 7):
            own = domain == label
            with agree.domain(label):
                (model(x[own]).squeeze(1) * factor[own]).mean().backward()
        agree.combine()
    return model


def all_finite(model: nn.Module) -> bool:
    return all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("bad", [float("inf"), -float("inf"), float("nan")])
@pytest.mark.parametrize("make", RULES, ids=lambda rule: rule.__name__)
def test_it_is_visible_in_grad_and_its_domain_named(make: object, bad: float, way: Way) -> None:
    with pytest.warns(dg.NonFiniteGradientWarning, match="7") as caught:
        model = run(make(), way, bad)  # type: ignore[operator]
    assert not all_finite(model)
    assert "3" not in str(caught[0].message), "the other domain is finite"


@pytest.mark.parametrize("way", WAYS)
def test_clipping_sees_it(way: Way) -> None:
    with pytest.warns(dg.NonFiniteGradientWarning):
        model = run(HidingMask(), way, float("nan"))
    with pytest.raises(RuntimeError, match="non-finite"):
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)


@pytest.mark.parametrize("way", WAYS)
def test_no_warning_for_finite_gradients(way: Way) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all_finite(run(dg.ANDMask(), way, 1e3))


def test_under_a_scaler_there_is_no_warning() -> None:
    """Skipped steps are its daily work."""
    model = nn.Linear(2, 1)
    scaler = torch.amp.GradScaler("cpu")
    agree = dg.GradientAgreement(model, HidingMask(), scaler=scaler)
    for name, factor in (("a", 1.0), ("b", float("inf"))):
        with agree.domain(name):
            scaler.scale(model.weight.sum() * factor).backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agree.combine()
    assert not model.weight.grad.isfinite().all()


def test_large_but_finite_gradients_are_not_called_infinite() -> None:
    """1e20 is a float32; its square is not."""
    model = nn.Linear(2, 1, bias=False)
    agree = dg.GradientAgreement(model, dg.ANDMask(rescale=False))
    for name, sign in (("a", 1.0), ("b", -1.0)):
        with agree.domain(name):
            (model.weight * torch.tensor([[sign * 1e20, 1.0]])).sum().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.NonFiniteGradientWarning)
        agree.combine()
    assert model.weight.grad.tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("way", WAYS)
def test_the_warning_points_at_the_users_line(way: Way) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(dg.Mean(), way, float("inf"))
    assert Path(caught[0].filename) == Path(__file__)
    source = Path(__file__).read_text(encoding="utf-8").splitlines()
    line = source[caught[0].lineno - 1]
    assert "agree.backward" in line or "agree.combine" in line


def test_a_good_step_follows() -> None:
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    agree = dg.GradientAgreement(model, dg.Mean())
    for factor in (float("nan"), 1.0):
        model.zero_grad()
        for name in "ab":
            with agree.domain(name):
                (model.weight.sum() * factor).backward()
        if factor == 1.0:
            agree.combine()
        else:
            with pytest.warns(dg.NonFiniteGradientWarning, match="'a', 'b'"):
                agree.combine()
    assert model.weight.grad.tolist() == [[1.0, 1.0]]
