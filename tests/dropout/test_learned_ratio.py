"""The learned ratio against finite differences, and against its equations written out."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import domaingrad as dg
from domaingrad.dropout.layers import targets_of
from domaingrad.dropout.masking import Masking
from domaingrad.dropout.ranking import Ranking
from domaingrad.dropout.ratio import Ratios, slope_of_ratio
from domaingrad.dropout.slopes import SubsetLoss, VirtualStep, split_domains
from domaingrad.engine.batch import Batch

N, K, ALPHA, T = 15, 3, 0.3, 0.07
DOMAIN = torch.tensor([2, 0, 1] * 5)
TRAIN, TEST = [0, 2], [1]


def setting():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    return model, torch.randn(N, 4).double(), torch.randint(3, (N,))


def by_hand(model, x, y, factors, domains=(TRAIN, TEST), of_gradients=False):
    """L_test(θ − α ∇L_train(θ ⊙ M)), the two linear layers written out; or M ⊙ ∇L_train(θ)."""
    w1, b1, w2, b2 = (p.detach().clone().requires_grad_() for p in model.parameters())

    def loss(w1, b1, w2, b2, among):
        total = 0.0
        for e in among:
            rows = e == DOMAIN
            hidden = torch.tanh(x[rows] @ w1.T + b1)
            total = total + F.cross_entropy(hidden @ w2.T + b2, y[rows])
        return total / len(among)

    seen = (w1, b1, w2, b2) if of_gradients else (w1 * factors[0], b1, w2 * factors[1], b2)
    gradients = list(torch.autograd.grad(loss(*seen, domains[0]), (w1, b1, w2, b2)))
    if of_gradients:
        gradients[0], gradients[2] = gradients[0] * factors[0], gradients[2] * factors[1]
    moved = [p.detach() - ALPHA * g for p, g in zip((w1, b1, w2, b2), gradients, strict=True)]
    return loss(*moved, domains[1]).item()


def slopes(model, x, y, factors, domains=(TRAIN, TEST), way="through_the_graph", layers=None):
    targets = targets_of(model, layers)
    masking = Masking(model, [] if way == "of_gradients" else targets)
    loss = SubsetLoss(x, lambda out: F.cross_entropy(out, y, reduction="none"), Batch(DOMAIN))
    step = VirtualStep(model, masking, targets, loss, ALPHA)
    found = getattr(step, way)(factors, *domains)
    masking.remove()
    return found


def every_one_a_bin(u):
    return Ranking(torch.arange(u.numel(), dtype=torch.int32).view(u.shape), u.flatten())


def test_the_slope_of_the_ratio_is_that_of_finite_differences_through_the_soft_mask():
    model, x, y = setting()
    weights = [model[0].weight, model[2].weight]
    generator = torch.Generator().manual_seed(1)
    u = [torch.rand(w.shape, generator=generator).double() for w in weights]

    def soft(p):
        return [((1 - p - own) / T).sigmoid() for own in u]

    p, step = 0.35, 1e-5
    found = sum(
        slope_of_ratio(slope, own > 0, every_one_a_bin(own), p, T, rescale=False)
        for slope, own in zip(slopes(model, x, y, soft(p)), u, strict=True)
    )
    expected = (by_hand(model, x, y, soft(p + step)) - by_hand(model, x, y, soft(p - step))) / (
        2 * step
    )
    assert abs(expected) > 1e-4
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_of_masked_gradients_the_slope_is_that_of_finite_differences():
    model, x, y = setting()
    generator = torch.Generator().manual_seed(1)
    factors = [
        torch.rand(w.shape, generator=generator).double()
        for w in (model[0].weight, model[2].weight)
    ]
    found = slopes(model, x, y, factors, way="of_gradients")
    for place, j in ((0, (2, 3)), (0, (4, 0)), (1, (1, 2))):
        step, values = 1e-5, []
        for sign in (1, -1):
            moved = [factor.clone() for factor in factors]
            moved[place][j] += sign * step
            values.append(by_hand(model, x, y, moved, of_gradients=True))
        assert found[place][j].item() == pytest.approx(
            (values[0] - values[1]) / (2 * step), rel=1e-5
        )


def test_with_rescale_the_kept_share_enters_too():
    """Straight through: the derivative of M̃/(1 − p), with the hard M where M̃ itself stands."""
    p = 0.35
    u = torch.rand(40, generator=torch.Generator().manual_seed(0)).double()
    slope = torch.randn(40, generator=torch.Generator().manual_seed(1)).double()
    found = slope_of_ratio(slope, u <= 1 - p, every_one_a_bin(u), p, T, rescale=True)
    soft = 1 / (1 + np.exp(-((1 - p) - u.numpy()) / T))
    hard = (u.numpy() <= 1 - p).astype(float)
    by_p = -soft * (1 - soft) / T / (1 - p) + hard / (1 - p) ** 2
    assert found.item() == pytest.approx((slope.numpy() * by_p).sum(), rel=1e-12)


def test_slope_of_the_soft_mask():
    """∂M̃/∂p = −M̃ (1 − M̃)/T (METHODS)."""
    p, u = 0.4, np.linspace(0.01, 1, 50)
    soft = 1 / (1 + np.exp(-((1 - p) - u) / T))
    for j in range(len(u)):
        only = torch.zeros(len(u), dtype=torch.float64)
        only[j] = 1.0
        found = slope_of_ratio(
            only, only > 0, every_one_a_bin(torch.from_numpy(u)), p, T, rescale=False
        )
        assert found.item() == pytest.approx(-soft[j] * (1 - soft[j]) / T, rel=1e-9, abs=1e-12)


def test_the_ratio_follows_its_equation():
    """P = p_max σ(φ); the first step of Adam moves φ by its rate, against the slope."""
    ratios = Ratios(dg.LearnedRatio(start=0.3, largest=0.8, rate=0.5), 3)
    np.testing.assert_allclose(ratios.values(), 0.3)
    ratios.move(torch.tensor([2e-3, 0.0, -5.0]))
    phi = math.log(0.375 / 0.625)
    expected = [0.8 / (1 + math.exp(-(phi + shift))) for shift in (-0.5, 0.0, 0.5)]
    np.testing.assert_allclose(ratios.values(), expected, rtol=1e-4)


def test_domains_are_split_at_random_into_train_and_test():
    generator = torch.Generator().manual_seed(0)
    for count, tested in ((2, 1), (3, 1), (4, 1), (5, 2), (15, 5)):
        train, test = split_domains(count, generator)
        assert sorted(train + test) == list(range(count))
        assert len(test) == tested
    drawn = {tuple(split_domains(3, generator)[1]) for _ in range(50)}
    assert drawn == {(0,), (1,), (2,)}


def test_other_samples_do_not_enter_the_loss_of_some_domains():
    model, x, y = setting()
    poisoned = x.clone()
    poisoned[DOMAIN == 1] = math.nan
    for inputs in (x, poisoned):
        loss = SubsetLoss(
            inputs, lambda out: F.cross_entropy(out, y, reduction="none"), Batch(DOMAIN)
        )
        value = loss(model, TRAIN)
        expected = sum(F.cross_entropy(model(x[e == DOMAIN]), y[e == DOMAIN]) for e in TRAIN) / 2
        torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("scope", ["tensor", "model"])
def test_one_update_moves_the_ratios_as_the_equations_say(scope):
    model, x, y = setting()
    settings = dg.LearnedRatio(rate=0.5, virtual_rate=ALPHA, temperature=T)
    generator = torch.Generator().manual_seed(4)
    dropout = dg.GSNRDropout(model, settings, scope=scope, generator=generator)
    dropout.hold(torch.optim.SGD(model.parameters(), 0.1))

    def losses(out):
        return F.cross_entropy(out, y, reduction="none")

    moments = dg.signal_to_noise(model, x, losses)
    train, test = split_domains(K, torch.Generator().manual_seed(4))
    dropout.update(x, losses, DOMAIN)
    found = list(dropout.ratios.values())
    dropout.remove()

    q = [moments[name].bounded for name in ("0.weight", "2.weight")]
    joint = torch.cat([part.flatten() for part in q])
    u = [
        torch.stack(
            [
                (v >= (joint if scope == "model" else part).flatten()).double().mean()
                for v in part.flatten()
            ]
        )
        for part in q
    ]
    hard = [(own <= 2 / 3 + 1e-9).double() for own in u]
    factors = [m.view_as(part) for m, part in zip(hard, q, strict=True)]
    slope = slopes(model, x, y, factors, (train, test))
    sums = [
        (s.flatten() * -(soft := ((2 / 3 - own) / T).sigmoid()) * (1 - soft) / T).sum()
        for s, own in zip(slope, u, strict=True)
    ]
    if scope == "model":
        sums = [sums[0] + sums[1]]
    phi = math.log((1 / 3 / 0.9) / (1 - 1 / 3 / 0.9))
    # Adam's first step is ±rate; the size of the slope is tested above.
    expected = [0.9 / (1 + math.exp(-(phi - 0.5 * math.copysign(1, total)))) for total in sums]
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_attention_can_be_gone_back_twice():
    torch.manual_seed(0)

    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.head = nn.Linear(4, 12), nn.Linear(4, 3)

        def forward(self, x):
            q, k, v = self.qkv(x.unsqueeze(1).repeat(1, 3, 1)).chunk(3, -1)
            return self.head(F.scaled_dot_product_attention(q, k, v).mean(1))

    model, (_, x, y) = Attends(), setting()
    dropout = dg.GSNRDropout(model)
    dropout.hold(torch.optim.SGD(model.parameters(), 0.1))
    dropout.update(x.float(), lambda out: F.cross_entropy(out, y, reduction="none"), DOMAIN)
    assert all(p != 1 / 3 for p in dropout.ratios.values())


@pytest.mark.parametrize(
    "options",
    [
        {"start": 0.0},
        {"start": 0.9},
        {"start": math.nan},
        {"largest": 1.0},
        {"rate": 0.0},
        {"virtual_rate": -1.0},
        {"temperature": 0.0},
    ],
)
def test_settings_out_of_bounds(options):
    with pytest.raises(ValueError, match="LearnedRatio needs"):
        dg.LearnedRatio(**options)


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.reentrant = reentrant

    def forward(self, x):
        hidden = torch.tanh(self.a(x))
        if self.reentrant is None:
            hidden = self.b(hidden)
        else:
            hidden = checkpoint(self.b, hidden, use_reentrant=self.reentrant)
        return self.c(torch.tanh(hidden))


@pytest.mark.parametrize("layers", [None, "a", "b", "c"])
def test_checkpoints_see_the_virtual_parameters_and_the_factors(layers):
    _, x, y = setting()
    found = []
    for reentrant in (None, False):
        model = Checkpointed(reentrant).double()
        targets = targets_of(model, layers)
        generator = torch.Generator().manual_seed(3)
        factors = [torch.rand(t.parameter.shape, generator=generator).double() for t in targets]
        found.append(slopes(model, x, y, factors, layers=layers))
    for plain, checkpointed in zip(*found, strict=True):
        torch.testing.assert_close(plain, checkpointed)
        assert plain.any()


def test_reentrant_checkpoints_are_refused_with_a_way_out():
    _, x, y = setting()
    model = Checkpointed(True).double()
    dropout = dg.GSNRDropout(model)
    dropout.hold(torch.optim.SGD(model.parameters(), 0.1))
    with pytest.raises(RuntimeError, match=r"use_reentrant=False\), mask='gradients'"):
        dropout.update(x, lambda out: F.cross_entropy(out, y, reduction="none"), DOMAIN)


def test_gradients_need_not_be_enabled():
    model, x, y = setting()
    dropout = dg.GSNRDropout(model)
    dropout.hold(torch.optim.SGD(model.parameters(), 0.1))
    with torch.no_grad():
        dropout.update(x, lambda out: F.cross_entropy(out, y, reduction="none"), DOMAIN)
    assert all(p != 1 / 3 for p in dropout.ratios.values())
