"""The sketches' updates against literal float64 versions of the equations."""

import math
from copy import deepcopy
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from domaingrad.bench.methods import pooled

from .harness import DOMAINS, SAMPLES, advance, batches, gradients, learner, loss, network
from .sketches import SKETCHES, coral, fishr, irm, sagnet, swad


def objective_of(method, step=0, made=None):
    """What a sketch minimises at its first step, in float64."""
    made = made or learner(method)[0]
    made.step = step
    made.network.double()
    return made.objective({k: (x.double(), y) for k, (x, y) in batches(step).items()}).item()


def outputs_of(step=0):
    net = network().double()
    return {
        k: (net.features(x.double()).detach(), net(x.double()).detach(), y)
        for k, (x, y) in batches(step).items()
    }


def risk(logits, y):
    z = logits - logits.max(1, keepdims=True)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    return -np.log(p[np.arange(len(y)), y])


def arrays(step=0):
    return [tuple(t.numpy() for t in each) for each in outputs_of(step).values()]


def test_irm_is_the_product_of_two_gradients_of_a_scale():
    expected, h = [], 1e-5
    for _, logits, y in arrays():
        slopes = [
            (risk((1 + h) * o, t).mean() - risk((1 - h) * o, t).mean()) / (2 * h)
            for o, t in ((logits[::2], y[::2]), (logits[1::2], y[1::2]))
        ]
        expected.append((risk(logits, y).mean(), slopes[0] * slopes[1]))
    risks, penalties = np.array(expected).T
    for step, weight in ((0, 1.0), (500, 100.0)):  # before the anneal the weight is 1, not 0
        made, _ = learner(SKETCHES["irm"])
        made.step = step
        made.network.double()
        found = made.objective({k: (x.double(), y) for k, (x, y) in batches(0).items()})
        assert found.item() == pytest.approx(risks.mean() + weight * penalties.mean(), rel=1e-6)


def test_irms_penalty_is_a_square_where_both_halves_are_equal_and_moves_the_network():
    logits, y = torch.randn(6, 3, dtype=torch.float64), torch.tensor([0, 0, 1, 1, 2, 2])
    logits[1::2] = logits[::2]
    logits.requires_grad_()
    found = irm.penalty(logits, y)
    assert found >= 0
    (gradient,) = torch.autograd.grad(found, logits)
    assert gradient.abs().sum() > 0


def test_irm_starts_adam_anew_at_the_anneal():
    made, optimizers = learner(replace(SKETCHES["irm"], anneal=3))
    advance(made, optimizers, 3)
    assert made.optimizer.state[made.network.classifier.weight]["step"] == 3
    advance(made, optimizers, 1)
    assert made.optimizer.state[made.network.classifier.weight]["step"] == 1


def test_mixup_of_one_domain_with_the_next_has_its_labels_in_the_same_proportion(monkeypatch):
    """λ = 1 leaves each domain to itself, so that the mean of the risks is left."""

    class Ones:
        def beta(self, *_):
            return np.ones(len(DOMAINS))

    monkeypatch.setattr(np.random, "default_rng", lambda _: Ones())
    risks = [risk(logits, y).mean() for _, logits, y in arrays()]
    assert objective_of(SKETCHES["mixup"]) == pytest.approx(np.mean(risks), rel=1e-6)


def test_mixup_draws_from_the_runs_generator():
    one, other = (learner(SKETCHES["mixup"])[0] for _ in range(2))
    other.setup.generator.manual_seed(3)
    assert objective_of(None, made=one) != objective_of(None, made=other)


def test_groupdro_weighs_by_the_exponential_of_the_risks_so_far():
    made, _ = learner(replace(SKETCHES["groupdro"], eta=0.5))
    risks = np.array([risk(logits, y).mean() for _, logits, y in arrays()])
    for t in range(1, 4):  # the network stands still
        q = np.exp(0.5 * t * risks) / np.exp(0.5 * t * risks).sum()
        assert objective_of(None, made=made) == pytest.approx(q @ risks, rel=1e-5)


def test_mldg_adds_the_gradient_after_a_step_of_a_fresh_adam():
    method = replace(SKETCHES["mldg"], beta=0.7, tests=1)
    made, _ = learner(method)
    order = torch.randperm(3, generator=torch.Generator().manual_seed(2)).tolist()
    each = list(batches(0).values())
    expected = [torch.zeros_like(p) for p in network().parameters()]
    for train in order[:2]:
        inner = network()
        gradient = torch.autograd.grad(
            loss(inner(each[train][0]), each[train][1]).mean(), list(inner.parameters())
        )
        with torch.no_grad():  # Adam's first step: lr·g/(|g| + ε), of the bias-corrected moments
            for p, g in zip(inner.parameters(), gradient, strict=True):
                p.sub_(1e-2 * g / (g.abs() + 1e-8))
        x, y = each[order[2]]
        after = torch.autograd.grad(loss(inner(x), y).mean(), list(inner.parameters()))
        expected = [
            e + (g + 0.7 * a) / 3 for e, g, a in zip(expected, gradient, after, strict=True)
        ]
    made.backward(batches(0))
    for found, wanted in zip(gradients(made), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_mldg_moves_with_two_domains_where_domainbeds_does_not():
    made, optimizers = learner(SKETCHES["mldg"], domains=DOMAINS[:2])
    before = deepcopy(made.network.state_dict())
    advance(made, optimizers, 1, DOMAINS[:2])
    now = made.network.state_dict()
    assert all(not torch.equal(now[name], before[name]) for name in now)


def test_coral_is_the_mean_over_entries_of_differences_of_means_and_covariances():
    each = arrays()
    pairs = []
    for (a, *_), (b, *_) in combinations(each, 2):
        covariances = [(z - z.mean(0)).T @ (z - z.mean(0)) / (len(z) - 1) for z in (a, b)]
        means = np.mean((a.mean(0) - b.mean(0)) ** 2)
        pairs.append(means + np.mean((covariances[0] - covariances[1]) ** 2))
    expected = np.mean([risk(o, y).mean() for _, o, y in each]) + 1.0 * np.mean(pairs)
    assert objective_of(SKETCHES["coral"]) == pytest.approx(expected, rel=1e-6)


def test_corals_distance_of_a_shift_is_its_mean_square():
    z, shift = torch.randn(9, 4, dtype=torch.float64), torch.tensor([1.0, 0.0, -2.0, 3.0])
    assert coral.distance(z, z + shift).item() == pytest.approx(14 / 4)


def test_fishrs_closed_form_is_the_variance_of_single_samples_gradients():
    net = network().double()
    x, y = batches(0)["a"]
    z = net.features(x.double()).detach()
    single = []
    for row, label in zip(z, y, strict=True):
        weight, bias = (p.detach().requires_grad_() for p in net.classifier.parameters())
        one = F.cross_entropy(row @ weight.T + bias, label)
        gw, gb = torch.autograd.grad(one, (weight, bias))
        single.append(torch.cat([gw, gb[:, None]], 1))
    expected = torch.stack(single).var(0, correction=0)
    torch.testing.assert_close(fishr.variance(z, net.head(z), y), expected)


def test_fishrs_average_of_a_constant_grows_as_its_formula():
    made, _ = learner(replace(SKETCHES["fishr"], ema=0.9))
    x, y = batches(0)["a"]
    z = made.network.features(x)
    v = fishr.variance(z, made.network.head(z), y)
    for t in range(4):
        made.objective(batches(0))
        torch.testing.assert_close(made.average[0], v * (1 - 0.9 ** (t + 1)))


def test_fish_goes_a_part_of_the_way_of_an_adam_over_the_domains():
    made, optimizers = learner(SKETCHES["fish"])
    clone = network()
    adam = torch.optim.Adam(clone.parameters(), 1e-2)
    theta = {n: t.clone() for n, t in network().state_dict().items()}
    for step in range(2):  # Adam's state goes on from update to update
        clone.load_state_dict(theta)
        for x, y in batches(step).values():
            adam.zero_grad()
            loss(clone(x), y).mean().backward()
            adam.step()
        theta = {n: t + 0.5 * (clone.state_dict()[n] - t) for n, t in theta.items()}
    advance(made, optimizers, 2)
    for name, tensor in made.network.state_dict().items():
        torch.testing.assert_close(tensor, theta[name])


def test_dann_moves_the_network_or_the_discriminator_and_never_both():
    made, optimizers = learner(SKETCHES["dann"])
    for of_network in (True, False, True, False):
        before = deepcopy(made.network.state_dict()), deepcopy(made.discriminator.state_dict())
        advance(made, optimizers, 1)
        after = made.network.state_dict(), made.discriminator.state_dict()
        for part, its in enumerate((of_network, not of_network)):
            same = [torch.equal(after[part][n], t) for n, t in before[part].items()]
            assert not any(same) if its else all(same)


def test_a_step_of_danns_network_confuses_the_discriminator():
    made, optimizers = learner(replace(SKETCHES["dann"], weight=1e3))

    def told():
        x, _, domain = pooled(batches(0))
        return F.cross_entropy(made.discriminator(made.network.features(x)), domain).item()

    before = told()
    advance(made, optimizers, 1)
    assert told() > before


def test_sagnets_statistics_make_of_a_sample_what_it_was():
    z = torch.randn(4, 6, dtype=torch.float64)
    mean, variance, rest = sagnet.statistics(z)
    np.testing.assert_allclose(variance.numpy()[:, 0], z.numpy().var(1, ddof=1))
    torch.testing.assert_close(rest * (variance + 1e-5).sqrt() + mean, z)


def test_sagnets_style_head_takes_nothing_of_the_features():
    made, _ = learner(SKETCHES["sagnet"])
    before = deepcopy(made.network.state_dict())
    x, y, _ = pooled(batches(0))
    told = loss(made.style(made._content_randomized(x)), y).mean()
    made._step(told, made.of_style)
    assert all(torch.equal(made.network.state_dict()[n], t) for n, t in before.items())


def test_mtl_keeps_the_mean_features_and_predicts_by_the_batchs_own():
    made, _ = learner(replace(SKETCHES["mtl"], ema=1.0))
    made.objective(batches(0))
    x, _ = batches(0)["b"]
    torch.testing.assert_close(made.means[1], made.network.features(x).mean(0))
    predictor = made.predictor()
    assert torch.equal(predictor(x), predictor(x))
    assert not torch.equal(predictor(x)[:2], predictor(x[:2]))


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([5.0, 4.0, 3.0, 2.0], None),
        # From the oldest of a window of three that is its lowest, back and on while ≤ 1.3 · mean.
        ([5.0, 1.3, 1.0, 1.1, 1.2, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0], (1, 4)),
        ([1.0, 1.1, 1.2], (0, 2)),
    ],
)
def test_swads_valley_by_hand(losses, expected):
    assert swad.valley(losses, 3, 6, 0.3) == expected


def test_swad_averages_the_steps_of_its_segments_and_changes_no_training():
    made, optimizers = learner(SKETCHES["swad"])
    plain, its = learner(SKETCHES["swad"])
    seen = []
    for _ in range(4):
        advance(plain, its, 1)
        seen.append(deepcopy(plain.network.state_dict()))
    advance(made, optimizers, 4)
    for name, tensor in made.network.state_dict().items():
        assert torch.equal(tensor, seen[-1][name])
        # Losses that fall all the way make no valley: the last segment, of one step, stands.
        torch.testing.assert_close(made.average.state_dict()[name], seen[-1][name])


def test_ermpp_trains_the_head_first_and_averages_from_a_step_on():
    method = replace(SKETCHES["erm++"], linear_steps=2, average_from=3)
    made, optimizers = learner(method)
    body = deepcopy(made.network.body.state_dict())
    seen = []
    for step in range(6):
        advance(made, optimizers, 1)
        seen.append(deepcopy(made.network.state_dict()))
        still = all(torch.equal(made.network.body.state_dict()[n], t) for n, t in body.items())
        assert still == (step < 2)
    for name, tensor in made.average.state_dict().items():
        torch.testing.assert_close(tensor, torch.stack([s[name] for s in seen[3:]]).mean(0))


def test_the_batches_of_these_tests_are_even():
    """Else means over domains and over samples would differ."""
    assert {len(y) for _, y in batches(0).values()} == {SAMPLES}
    assert math.isfinite(objective_of(SKETCHES["coral"]))
