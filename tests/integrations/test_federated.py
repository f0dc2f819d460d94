"""Sites that give away sums alone come to the step of one process."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import domaingrad as dg
from domaingrad.bench.methods.q_mean import QMean
from domaingrad.integrations import federated as fed

RULES = {
    "mean": dg.Mean,
    "and-mask": lambda: dg.ANDMask(tau=0.6),
    "and-mask, geometric": lambda: dg.ANDMask(tau=0.6, rescale=False, average="geometric"),
    "sand-mask": lambda: dg.SANDMask(tau=0.2, k=1e-3),
    "agr-sum": dg.AgrSum,
    "agr-rand": lambda: dg.AgrRand(torch.Generator().manual_seed(3)),
    "q-mean": QMean,
}
SITES = ((0,), (1, 2), (3, 4))
"""Which domains each site has."""


def data(step=0):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(5, 6, 4, generator=generator)
    return x + torch.arange(5)[:, None, None] / 5, torch.randint(3, (5, 6), generator=generator)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def losses(model, domains, step=0):
    x, y = data(step)
    return (F.cross_entropy(model(x[e]), y[e]) for e in domains)


def in_one_process(model, rule, step):
    """The engine's update of all domains, one backward a domain."""
    agree = dg.GradientAgreement(model, rule)
    x, y = data(step)
    for e in range(5):
        with agree.domain(e):
            F.cross_entropy(model(x[e]), y[e]).backward()
    agree.combine()
    agree.remove()


@pytest.mark.parametrize("name", RULES)
def test_five_rounds_are_those_of_one_process(name):
    whole, server = network(), network()
    alone, rule = RULES[name](), RULES[name]()
    optimizers = [torch.optim.Adam(m.parameters(), 1e-2) for m in (whole, server)]
    for step in range(5):
        in_one_process(whole, alone, step)
        sent = []
        for domains in SITES:
            site = deepcopy(server)  # the weights of the round
            sums = fed.site_sums(site, losses(site, domains, step), rule)
            sent.append(fed.to_arrays(sums))
            assert all(p.grad is None for p in site.parameters())
        sums = fed.added(fed.from_arrays(arrays, server, rule) for arrays in sent)
        fed.combine(server, sums, rule)
        for a, b in zip(whole.parameters(), server.parameters(), strict=True):
            # Gradients are of size 0.1; float32 rounds at 1e-8 of that.
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-6)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    for a, b in zip(whole.parameters(), server.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_a_variance_far_below_the_mean_survives_the_sums():
    """Σg² − (Σg)²/K of gradients that differ in their sixth digit; float32 has nothing of it."""
    rule, model = QMean(), nn.Linear(1, 1, bias=False)
    slopes = torch.tensor([1.0, 1.00001, 1.00002])
    sums = fed.site_sums(model, ((model.weight * s).sum() for s in slopes), rule)
    totals = sums.sums
    m2 = (totals["m2"]["weight"] - totals["mean"]["weight"].square() / 3).item()
    assert m2 == pytest.approx(2e-10, rel=1e-2)


def test_what_a_site_sends_does_not_grow_with_its_domains():
    model, rule = network(), dg.SANDMask(tau=0.2)
    one, five = (fed.site_sums(model, losses(model, range(k)), rule) for k in (1, 5))
    shapes = [[a.shape for a in fed.to_arrays(sums)] for sums in (one, five)]
    assert shapes[0] == shapes[1]
    assert (one.domains, five.domains) == (1, 5)
    # Σg, Σg² and Σ sign of four tensors, and the number of domains.
    assert len(shapes[0]) == 1 + 3 * 4
    assert set(fed.site_sums(model, losses(model, [0]), dg.Mean()).sums) == {"mean"}


def test_a_parameter_that_no_domain_uses_and_a_frozen_one():
    model = network()
    model.unused = nn.Linear(2, 2)
    model[0].weight.requires_grad_(False)
    x, y = data()
    loss = F.cross_entropy(model[2](model[1](model[0](x[0]))), y[0])
    sums = fed.site_sums(model, [loss], dg.Mean())
    assert "0.weight" not in sums.sums["mean"]
    assert not sums.sums["mean"]["unused.weight"].any()


def test_what_does_not_fit_is_refused():
    model, rule = network(), dg.ANDMask()
    with pytest.raises(ValueError, match=r"PCGrad\(.*needs products of the domains' gradients"):
        fed.site_sums(model, losses(model, [0]), dg.PCGrad())
    with pytest.raises(ValueError, match=r"needs the loss of one at least; found none\. Leave"):
        fed.site_sums(model, [], rule)
    with pytest.raises(ValueError, match=r"sums of one site at least"):
        fed.added([])
    one = fed.site_sums(model, losses(model, [0]), rule)
    with pytest.raises(ValueError, match=r"at least 2 of them.*found 1 over all sites"):
        fed.combine(model, one, rule)
    small = nn.Linear(4, 3)
    x, y = data()
    less = fed.site_sums(small, [F.cross_entropy(small(x[0]), y[0])], rule)
    with pytest.raises(ValueError, match=r"the same parameters; found mean, sign_sum of 0\.weight"):
        fed.added([one, less])
    two = fed.site_sums(model, losses(model, [0, 1]), dg.Mean())
    with pytest.raises(ValueError, match=r"needs sums for mean, sign_sum; sign_sum is missing"):
        fed.combine(model, two, rule)
    with pytest.raises(ValueError, match=r"expected 9 arrays.*found 5\. Give server and sites"):
        fed.from_arrays(fed.to_arrays(two), model, rule)
