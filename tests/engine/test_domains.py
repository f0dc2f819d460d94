"""Which domains vote, and with what weight."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import domaingrad as dg

from . import equations
from .problems import LABELS, PROBLEMS
from .separate_passes import WAYS, Way, reference_and_copy

RULES = {
    "mean": (dg.Mean, equations.mean),
    "and": (lambda: dg.ANDMask(1.0, rescale=False), equations.and_mask(1.0, False)),
    "sand": (lambda: dg.SANDMask(0.4, 0.1), equations.sand_mask(0.4, 0.1)),
    "agr-sum": (dg.AgrSum, equations.agr_sum),
}


def squared_error(n: int, width: int, seed: int) -> tuple[nn.Linear, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    model = nn.Linear(width, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.randn(1, width, generator=draw))
    x = torch.randn(n, width, generator=draw, dtype=torch.float64)
    return model, x, torch.randn(n, generator=draw, dtype=torch.float64)


def closed_form(model: nn.Linear, x: Tensor, y: Tensor, domain: list[int]) -> equations.Stacks:
    """g_e = (2/n_e) X_eᵀ (X_e w − y_e), without autograd."""
    w, rows, targets = model.weight.detach().numpy()[0], x.numpy(), y.numpy()
    gradients = []
    for label in sorted(set(domain)):
        own = np.array(domain) == label
        gradients.append(2 * rows[own].T @ (rows[own] @ w - targets[own]) / own.sum())
    return {"weight": np.stack(gradients)[:, None]}


def agreed(model: nn.Linear, x: Tensor, y: Tensor, domain: Tensor, rule: dg.rules.Rule) -> None:
    agree = dg.GradientAgreement(model, rule)
    agree.backward((agree(x, domain).squeeze(1) - y).square())


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    domain=st.lists(st.integers(-3, 3), min_size=2, max_size=25).filter(lambda d: len(set(d)) > 1),
    rule=st.sampled_from(sorted(RULES)),
    seed=st.integers(0, 2**16),
)
def test_any_partition_gives_the_closed_form(domain: list[int], rule: str, seed: int) -> None:
    make, equation = RULES[rule]
    model, x, y = squared_error(len(domain), 5, seed)
    agreed(model, x, y, torch.tensor(domain), make())
    expected = equation(closed_form(model, x, y, domain))["weight"]
    # Float64; SAND divides by a variance that may be small beside the mean.
    np.testing.assert_allclose(model.weight.grad.numpy(), expected, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("domains", [130, 257])
@pytest.mark.parametrize("rule", RULES)
def test_more_domains_than_int8_counts(domains: int, rule: str) -> None:
    """130 agreeing signs are −126 in int8, and 256 are 0."""
    make, equation = RULES[rule]
    model, x, y = squared_error(domains, 3, 0)
    x[:, 0] = x[:, 0].abs() + 0.1  # all domains agree here
    y[:] = 100.0
    domain = torch.arange(domains)
    agreed(model, x, y, domain, make())
    expected = equation(closed_form(model, x, y, domain.tolist()))["weight"]
    assert expected[0, 0] != 0
    np.testing.assert_allclose(model.weight.grad.numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("used", [1, 100, 129])
def test_domains_that_do_not_use_a_parameter_vote_zero_beyond_int8(used: int) -> None:
    model = nn.ModuleList([nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)])
    agree = dg.GradientAgreement(model, dg.ANDMask(used / 130, rescale=False))
    for e in range(130):
        with agree.domain(e):
            (model[0].weight.sum() + (model[1].weight.sum() if e < used else 0.0)).backward()
    agree.combine()
    assert torch.equal(model[0].weight.grad, torch.ones(1, 2))
    # float32: one rounding of used / 130.
    torch.testing.assert_close(model[1].weight.grad, torch.full((1, 2), used / 130))


def test_zeros_beyond_int8_deny_a_strict_mask() -> None:
    """100 votes of 130: a threshold of 130 is −126 in int8."""
    model = nn.ModuleList([nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)])
    agree = dg.GradientAgreement(model, dg.ANDMask(1.0, rescale=False))
    for e in range(130):
        with agree.domain(e):
            (model[0].weight.sum() + (model[1].weight.sum() if e < 100 else 0.0)).backward()
    agree.combine()
    assert torch.equal(model[0].weight.grad, torch.ones(1, 2))
    assert torch.equal(model[1].weight.grad, torch.zeros(1, 2))


@pytest.mark.parametrize(
    "relabel",
    [
        lambda d: d.to(torch.int32),
        lambda d: d.to(torch.int16) * -100,
        lambda d: d.to(torch.uint8) + 200,
        lambda d: d * 2**60 - 2**62,
        lambda d: d.to(torch.int8) - 128,
    ],
    ids=["int32", "negative int16", "uint8", "huge int64", "int8"],
)
def test_labels_are_names_and_not_numbers(relabel: object) -> None:
    model, x, y = squared_error(12, 4, 0)
    domain = torch.tensor([0, 1, 2, 1] * 3)
    agreed(model, x, y, relabel(domain), dg.SANDMask(0.4, 0.1))  # type: ignore[operator]
    expected = RULES["sand"][1](closed_form(model, x, y, domain.tolist()))["weight"]
    np.testing.assert_allclose(model.weight.grad.numpy(), expected, rtol=1e-9)


def test_an_absent_domain_does_not_vote() -> None:
    """K is the number of domains present: one more zero vote would empty the mask."""
    model, x, y = squared_error(12, 4, 0)
    x, y = x.abs(), y + 100.0  # all agree
    agree = dg.GradientAgreement(model, dg.ANDMask(1.0, rescale=False))
    for step_domains in ([0, 1, 2] * 4, [0, 2] * 6):
        model.zero_grad()
        agree.backward((agree(x, torch.tensor(step_domains)).squeeze(1) - y).square())
        expected = equations.mean(closed_form(model, x, y, step_domains))["weight"]
        np.testing.assert_allclose(model.weight.grad.numpy(), expected, rtol=1e-9)


def test_a_domain_counts_by_its_mean_and_not_by_its_share() -> None:
    model, x, y = squared_error(8, 4, 0)
    domain = torch.tensor([0, 1] * 4)
    agreed(model, x, y, domain, dg.Mean())
    once = model.weight.grad.clone()
    model.zero_grad()
    own = domain == 1
    nine_times = [torch.cat([t, *[t[own]] * 8]) for t in (x, y, domain)]
    agreed(model, *nine_times, dg.Mean())
    torch.testing.assert_close(model.weight.grad, once, rtol=1e-12, atol=0)


def test_the_order_of_samples_does_not_matter() -> None:
    model, x, y = squared_error(12, 4, 0)
    domain = torch.tensor([5, 1, 3] * 4)
    agreed(model, x, y, domain, dg.SANDMask(0.4, 0.1))
    sorted_update = model.weight.grad.clone()
    model.zero_grad()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    agreed(model, x[order], y[order], domain[order], dg.SANDMask(0.4, 0.1))
    torch.testing.assert_close(model.weight.grad, sorted_update, rtol=1e-9, atol=0)


@pytest.mark.parametrize("rule", RULES)
def test_the_order_of_domains_does_not_matter(rule: str) -> None:
    make, equation = RULES[rule]
    gradients, _, model = reference_and_copy(PROBLEMS["mlp"])
    expected = equation(gradients)
    named = dict(model.named_parameters())
    agree = dg.GradientAgreement(model, make())
    for e in (2, 0, 3, 1):
        with agree.domain(e):
            loss = sum(
                (p * torch.from_numpy(gradients[name][e])).sum() for name, p in named.items()
            )
            loss.backward()
    agree.combine()
    for name, p in named.items():
        np.testing.assert_allclose(p.grad.numpy(), expected[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_losses_of_unequal_size(rule: str) -> None:
    """A domain whose loss is 1e6 times the others' keeps one vote, and its size in the mean."""
    make, equation = RULES[rule]
    model, x, y = squared_error(12, 4, 0)
    domain = torch.tensor([0, 1, 2] * 4)
    factor = torch.where(domain == 1, 1e6, 1.0).double()
    agree = dg.GradientAgreement(model, make())
    agree.backward((agree(x, domain).squeeze(1) - y).square() * factor)
    gradients = closed_form(model, x, y, domain.tolist())
    gradients["weight"][1] *= 1e6
    np.testing.assert_allclose(
        model.weight.grad.numpy(), equation(gradients)["weight"], rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rule", [*RULES, "pcgrad"])
def test_weights_multiply_the_gradients_of_the_named_domains(rule: str, way: Way) -> None:
    make, equation = {**RULES, "pcgrad": (dg.PCGrad, equations.pcgrad_of_two)}[rule]
    model, x, y = squared_error(8, 4, 1)
    domain = torch.tensor([LABELS[0], LABELS[3]] * 4)
    agree = dg.GradientAgreement(model, make(), weights={LABELS[3]: 2.5})
    if way == "mixed batch":
        agree.backward((agree(x, domain).squeeze(1) - y).square())
    else:
        for label in (LABELS[3], LABELS[0]):
            own = domain == label
            with agree.domain(label):
                (model(x[own]).squeeze(1) - y[own]).square().mean().backward()
        agree.combine()
    gradients = closed_form(model, x, y, domain.tolist())
    gradients["weight"][1] *= 2.5
    np.testing.assert_allclose(
        model.weight.grad.numpy(), equation(gradients)["weight"], rtol=1e-9, atol=1e-12
    )


def test_weights_hold_for_a_domain_named_by_a_tensor() -> None:
    """``for d in domain.unique(): with agree.domain(d)``: refused or right, never ignored."""
    model, x, y = squared_error(8, 4, 1)
    domain = torch.tensor([0, 1] * 4)
    agree = dg.GradientAgreement(model, dg.Mean(), weights={1: 2.5})
    try:
        for label in domain.unique():
            own = domain == label
            with agree.domain(label):
                (model(x[own]).squeeze(1) - y[own]).square().mean().backward()
    except TypeError:
        return
    agree.combine()
    gradients = closed_form(model, x, y, domain.tolist())
    gradients["weight"][1] *= 2.5
    np.testing.assert_allclose(
        model.weight.grad.numpy(), equations.mean(gradients)["weight"], rtol=1e-9
    )


def test_names_may_be_any_hashable() -> None:
    model = nn.Linear(2, 1)
    agree = dg.GradientAgreement(model, dg.Mean(), weights={("site", 2): 3.0})
    for name in ("photo", ("site", 2), None, 0):
        with agree.domain(name):
            model.bias.sum().backward()
    agree.combine()
    assert model.bias.grad.item() == (1 + 3 + 1 + 1) / 4


class Heads(nn.Module):
    """A shared layer, a layer of domains 0 and 1, and a head of each domain's own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shared = nn.Linear(4, 5)
        self.some = nn.Linear(5, 5)
        self.heads = nn.ModuleList(nn.Linear(5, 1) for _ in range(3))

    def forward(self, x: Tensor, label: int) -> Tensor:
        hidden = self.shared(x).tanh()
        return self.heads[label](hidden if label == 2 else self.some(hidden)).squeeze(1)


@pytest.mark.parametrize(
    ("make", "equation"),
    [
        (lambda: dg.ANDMask(0.7), equations.and_mask(0.7, True)),
        (lambda: dg.SANDMask(0.4, 0.1), equations.sand_mask(0.4, 0.1)),
        (dg.AgrSum, equations.agr_sum),
        (dg.Median, lambda stacks: {n: np.median(g, axis=0) for n, g in stacks.items()}),
    ],
    ids=["and", "sand", "agr-sum", "median"],
)
def test_domains_that_do_not_use_a_parameter_may_be_left_out(make, equation) -> None:
    model = Heads().double()
    named = dict(model.named_parameters())
    x = torch.randn(3, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    stacks: dict[str, list[np.ndarray]] = {name: [] for name in named}
    for label in range(3):
        found = torch.autograd.grad(
            model(x[label], label).square().mean(), list(named.values()), allow_unused=True
        )
        for name, gradient in zip(named, found, strict=True):
            if gradient is not None:
                stacks[name].append(gradient.numpy())
    agree = dg.GradientAgreement(model, make(), unused="skip")
    for label in range(3):
        with agree.domain(label):
            model(x[label], label).square().mean().backward()
    agree.combine()
    assert {name: len(rows) for name, rows in stacks.items()}["some.weight"] == 2
    for name, rows in stacks.items():
        expected = rows[0] if len(rows) == 1 else equation({name: np.stack(rows)})[name]
        np.testing.assert_allclose(named[name].grad.numpy(), expected, rtol=1e-9, atol=1e-14)


def test_leaving_domains_out_is_not_for_gramian_rules() -> None:
    with pytest.raises(ValueError, match=r"PCGrad\(\) has one weight .* unused='zero'"):
        dg.GradientAgreement(Heads(), dg.PCGrad(), unused="skip")
    with pytest.raises(ValueError, match="unused must be one of 'zero', 'skip'; found 'none'"):
        dg.GradientAgreement(Heads(), dg.Mean(), unused="none")
