"""What the equations say of single pieces: limits, signs, counts, values by hand."""

import math
from copy import deepcopy
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import nn
from torch.amp import GradScaler
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from domaingrad.bench import train
from domaingrad.bench.domains import DataError
from domaingrad.bench.methods import (
    METHODS,
    cdann,
    distances,
    eqrm,
    fishr,
    gga,
    miro,
    passes,
    pogm,
    pooled,
    rdm,
    rsc,
    sagnet,
    selfreg,
    vrex,
)
from domaingrad.bench.methods.mixup import MixupLearner
from domaingrad.bench.methods.passes import Members
from domaingrad.bench.methods.q_mean import QMean
from domaingrad.bench.models import Network

from . import literal
from .harness import CLASSES, DOMAINS, SAMPLES, STEPS, advance, batches, learner, loss, network
from .sketches import SKETCHES, swad


def objective_of(made, step=0):
    """What a learner minimises, in float64."""
    made.network.double()
    return made.objective({k: (x.double(), y) for k, (x, y) in batches(step).items()})


def risks(step=0):
    net = network().double()
    each = batches(step).values()
    return torch.stack([literal.risk(net(x.double()), y) for x, y in each]).detach()


def gradients(made):
    return [p.grad.clone() for p in made.network.parameters()]


# Risks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vrex", "groupdro", "eqrm"])
def test_a_method_of_the_risks_is_one_weighted_backward(name):
    """Autograd of the objective as written equals Σ_e a_e g_e, with g_e by passes of their own."""
    hp = replace(METHODS[name], **({} if name == "groupdro" else {"anneal": 0}))
    made, _ = learner(hp, net=network().double())
    given = {k: (x.double(), y) for k, (x, y) in batches(0).items()}
    r = risks()
    match name:
        case "vrex":
            a = (1 + 2 * hp.weight * (r - r.mean())) / 3
        case "groupdro":
            a = (hp.eta * r).exp() / (hp.eta * r).exp().sum()
        case "eqrm":
            leaf = r.clone().requires_grad_()
            (a,) = torch.autograd.grad(literal.kde_quantile(leaf, hp.alpha), leaf)
    expected = [torch.zeros_like(p) for p in made.network.parameters()]
    for weight, (x, y) in zip(a, given.values(), strict=True):
        found = torch.autograd.grad(
            literal.risk(made.network(x), y), list(made.network.parameters())
        )
        expected = [e + weight * g for e, g in zip(expected, found, strict=True)]
    made.backward(given)
    for found, wanted in zip(gradients(made), expected, strict=True):
        # GroupDRO keeps its weights in float32.
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-8)


def test_two_domains_of_equal_risk_have_vrexs_weights_of_erm():
    assert vrex.multipliers(torch.tensor([0.7, 0.7]), 1e5).tolist() == [1.0, 1.0]


def test_groupdro_weighs_by_the_exponential_of_the_risks_so_far():
    made, _ = learner(replace(METHODS["groupdro"], eta=0.5))
    r = risks()
    for t in range(1, 4):  # the network stands still
        q = (0.5 * t * r).exp() / (0.5 * t * r).exp().sum()
        assert objective_of(made).item() == pytest.approx((q @ r).item(), rel=1e-5)
        assert made.q.numpy() == pytest.approx(q.numpy(), rel=1e-5)


def test_groupdros_weights_do_not_overflow():
    made, _ = learner(replace(METHODS["groupdro"], eta=100.0))
    for _ in range(5):
        multipliers = made.multipliers(torch.tensor([1e3, 0.0, 2e3]))
    assert multipliers.tolist() == [0.0, 0.0, 3.0]


def test_eqrms_derivative_is_the_quantiles_and_as_published_that_of_two_ends():
    """Numbers from running DomainBed's code, BASELINES §19."""
    r = torch.tensor([0.3, 0.5, 0.9, 1.4], dtype=torch.float64)
    found = eqrm.slopes(r, 0.75)
    assert found.tolist() == pytest.approx([-0.05, 0.06, 0.42, 0.56], abs=6e-3)
    assert found.sum().item() == pytest.approx(1, abs=1e-9)
    published = eqrm.published_slopes(r, 0.75)
    assert published.tolist() == pytest.approx([0.26, -0.10, 0.05, 0.79], abs=6e-3)
    for e in range(4):
        step = 1e-5 * torch.eye(4, dtype=torch.float64)[e]
        slope = (eqrm.quantile(r + step, 0.75) - eqrm.quantile(r - step, 0.75)) / 2e-5
        assert found[e].item() == pytest.approx(slope.item(), abs=1e-6)


@pytest.mark.parametrize("alpha", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("count", [2, 3, 7])
def test_eqrms_quantile_has_its_share_of_the_law_below(alpha, count):
    r = torch.rand(count, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    width, _ = eqrm.bandwidth(r)
    assert width.item() == pytest.approx(1.06 * np.std(r.numpy(), ddof=1) * count**-0.2)
    below = literal.normal_cdf((eqrm.quantile(r, alpha) - r) / width).mean()
    assert below.item() == pytest.approx(alpha, abs=1e-9)


def test_eqrm_of_equal_risks_weighs_domains_equally():
    assert eqrm.slopes(torch.full((3,), 0.5).double(), 0.9).tolist() == pytest.approx([1 / 3] * 3)


def test_eqrms_new_optimizer_has_its_learning_rate_and_as_published_there_is_none():
    for name, rate in (("eqrm", 1e-3), ("eqrm-published", 1e-2)):
        made, optimizers = learner(replace(METHODS[name], anneal=2, learning_rate=1e-3))
        advance(made, optimizers, 2)
        before = made.optimizer
        advance(made, optimizers, 1)
        assert made.optimizer.param_groups[0]["lr"] == pytest.approx(rate)
        assert (made.optimizer is before) == (name == "eqrm-published")
    steps = {int(state["step"]) for state in made.optimizer.state.values()}
    assert steps == {3}  # it goes on


def test_irms_penalty_is_a_square_where_both_halves_are_equal_and_negative_where_they_differ():
    """Of three domains, also where padding follows the samples of each."""
    slopes = torch.tensor([[0.3, 0.3, -0.5, -0.5, 0.1, 0.1], [1, -1, 1, -1, 1, -1], [2] * 6])
    padded = Members((8, 8, 8), torch.tensor([1.0] * 6 + [0.0] * 2).repeat(3))
    for members, values in (
        (Members((6, 6, 6)), slopes.flatten()),
        (padded, F.pad(slopes, (0, 2), value=7.0).flatten()),
    ):
        even, odd = (members.every_second(begin, values) for begin in (0, 1))
        assert (even * odd).tolist() == pytest.approx([(-0.1 / 3) ** 2, -1.0, 4.0])
    made, _ = learner(METHODS["irm"])
    with pytest.raises(ValueError, match=r"needs two of them in a step; found 1\. Use a larger"):
        made.objective(batches(0, samples=1))


@pytest.mark.parametrize("name", ["erm", "irm", "vrex", "groupdro", "coral", "mmd", "sd"])
def test_padding_counts_for_nothing(name):
    """Whatever it holds, objective and gradient are those of the samples alone."""
    made, _ = learner(replace(METHODS[name]))
    given = batches(0, samples=7)
    expected = made.objective(given)
    wanted = torch.autograd.grad(expected, list(made.network.parameters()))
    padded = {
        each: (torch.cat([x, 50 + x[:3]]), torch.cat([y, y[:3]])) for each, (x, y) in given.items()
    }
    again, _ = learner(replace(METHODS[name]))
    counted = torch.tensor([1.0] * 7 + [0.0] * 3).repeat(len(given))
    again.setup = replace(again.setup, counted=counted)
    found = again.objective(padded)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = torch.autograd.grad(found, list(again.network.parameters()))
    for one, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-4, atol=1e-6)


def test_irms_slope_is_that_of_a_scale_and_its_penalty_moves_the_network():
    made, _ = learner(replace(METHODS["irm"], anneal=0, weight=1.0))
    net, h = network().double(), 1e-5
    for (x, y), found in zip(batches(0).values(), risks(), strict=True):
        outputs = net(x.double()).detach()
        slope = (literal.risk((1 + h) * outputs, y) - literal.risk((1 - h) * outputs, y)) / (2 * h)
        closed = ((literal.softmax(outputs) - literal.onehot(y, CLASSES)) * outputs).sum(1).mean()
        assert closed.item() == pytest.approx(slope.item(), abs=1e-8)
        assert found > 0
    with_penalty = torch.autograd.grad(objective_of(made), list(made.network.parameters()))
    without, _ = learner(METHODS["erm"])
    plain = torch.autograd.grad(objective_of(without), list(without.network.parameters()))
    assert all(not torch.allclose(a, b) for a, b in zip(with_penalty, plain, strict=True))


@pytest.mark.parametrize("name", ["irm", "vrex", "ib-erm", "fishr"])
def test_adam_begins_anew_at_the_anneal(name):
    made, optimizers = learner(replace(METHODS[name], anneal=3))
    head = made.network.classifier.weight
    advance(made, optimizers, 3)
    assert made.optimizer.state[head]["step"] == 3
    advance(made, optimizers, 1)
    assert made.optimizer.state[head]["step"] == 1


def test_rdms_discrepancy_is_zero_for_equal_losses_and_the_literal_one_else():
    weights = torch.tensor([0.0, 0.0, 0.5, 0.5], dtype=torch.float64)
    assert rdm.discrepancy(torch.full((4,), 0.7).double(), weights) == 0
    losses = torch.tensor([0.1, 0.9, 2.0, 5.0], dtype=torch.float64)
    expected = literal.mmd_distance(
        losses[2:, None], losses[:, None], [10.0**p for p in range(-4, 4)]
    )
    assert rdm.discrepancy(losses, weights).item() == pytest.approx(expected.item())


# Inputs and outputs -----------------------------------------------------------------------------


def test_spectral_decoupling_adds_two_lambda_over_nc_times_the_outputs_to_their_gradient():
    made, _ = learner(METHODS["sd"])
    done = passes.forward(made.setup, batches(0))
    (found,) = torch.autograd.grad(made.penalty(done), done.outputs)
    torch.testing.assert_close(found, 2 * done.outputs.detach() / done.outputs.numel())


def test_mixup_uses_each_domain_once_on_either_side_and_shares_labels(monkeypatch):
    """λ = 1 leaves each domain to itself; a ring one way with λ is the other way with 1 − λ."""
    for shares in ([1.0] * 3, [0.0] * 3):
        monkeypatch.setattr(MixupLearner, "shares", lambda *_, s=shares: s)
        made, _ = learner(METHODS["mixup"])
        assert objective_of(made).item() == pytest.approx(risks().mean().item(), rel=1e-9)


def test_mixup_draws_from_the_runs_generator():
    one, other = (learner(METHODS["mixup"])[0] for _ in range(2))
    other.setup.generator.manual_seed(3)
    assert objective_of(one).item() != objective_of(other).item()
    shares = one.shares(4000)
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
    # Var of Beta(α, α) is 1/(4 (2α + 1)).
    assert np.var(shares) == pytest.approx(1 / (4 * 1.4), abs=0.01)


# Features ---------------------------------------------------------------------------------------


def features(count=9, width=4, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)).double()


def test_corals_distance_of_a_shift_is_its_mean_square():
    z, shift = features(), torch.tensor([1.0, 0.0, -2.0, 3.0])
    assert distances.coral(torch.cat([z, z + shift]), Members((9, 9))).item() == pytest.approx(
        14 / 4
    )


@pytest.mark.parametrize("sizes", [(5, 5), (4, 7, 3)])
def test_corals_products_of_samples_are_its_covariances(sizes):
    """With 40 features and fewer samples no matrix of d² is made; with 4, it is."""
    for width in (40, 4):
        z = features(sum(sizes), width) * torch.linspace(0.5, 2, width)
        z[: sizes[0]] *= 1.5
        expected = literal.over_pairs(literal.coral_distance, z.split(sizes))
        assert distances.coral(z, Members(sizes)).item() == pytest.approx(
            expected.item(), rel=1e-10
        )
    with pytest.raises(ValueError, match=r"needs 2 samples of each domain in a step; found 1"):
        distances.coral(features(3), Members((2, 1)))


def test_mmd_of_the_same_set_is_zero_and_of_others_the_literal_one_whichever_comes_first():
    z = features(12)
    assert distances.mmd(torch.cat([z, z]), Members((12, 12))).item() == pytest.approx(0, abs=1e-14)
    there, back = (distances.mmd(each, Members((5, 7))) for each in (z, torch.cat([z[5:], z[:5]])))
    assert there.item() == pytest.approx(literal.mmd_distance(z[:5], z[5:]).item())
    back = distances.mmd(torch.cat([z[5:], z[:5]]), Members((7, 5)))
    assert there.item() == pytest.approx(back.item())


def test_mmds_distances_do_not_cancel_in_float32():
    """Far from the origin ‖a‖² + ‖b‖² − 2ab has lost all digits of what is between them."""
    z = features(6).float()
    z = z + 1e4
    exact = distances.mmd(z.double(), Members((3, 3))).item()
    assert distances.mmd(z, Members((3, 3))).item() == pytest.approx(exact, rel=1e-4)


def test_one_set_is_apart_from_nothing():
    assert distances.coral(features(), Members((9,))) == 0
    assert distances.mmd(features(), Members((9,))).item() == pytest.approx(0, abs=1e-12)


def test_causirls_mixtures_of_one_distribution_are_alike_on_average():
    """Over cuts; with domains that differ, they still mix all of them."""
    made, _ = learner(METHODS["causirl-coral"])
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(200):
        z = torch.randn(96, 4, generator=generator)
        done = passes.Forward(z, z, torch.zeros(96), torch.zeros(96), Members((32, 32, 32)))
        found.append(made.penalty(done).item())
    # Two samples of 48 have squared differences of means of 2/48 and of covariances less than that.
    assert np.median(found) < 0.2
    one = passes.Forward(z[:3], z[:3], torch.zeros(3), torch.zeros(3), Members((1, 1, 1)))
    assert made.penalty(one) == 0  # no first part has a sample


def test_the_bottleneck_is_the_mean_variance_within_domains():
    made, _ = learner(replace(METHODS["ib-erm"], anneal=0, weight=1.0))
    done = passes.forward(made.setup, batches(0))
    expected = np.mean(
        [z.detach().numpy().var(0, ddof=1).mean() for z in done.by_domain(done.features)]
    )
    assert made.penalty(done).item() == pytest.approx(expected, rel=1e-5)


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
    error = literal.softmax(net.head(z)) - literal.onehot(y, CLASSES)
    torch.testing.assert_close(fishr.variance(z, error), expected)
    torch.testing.assert_close(fishr.variance(z, error, bias=False), expected[:, :-1])


def test_fishrs_average_of_a_constant_grows_as_its_formula():
    made, _ = learner(replace(METHODS["fishr"], ema=0.9))
    x, y = batches(0)["a"]
    z = made.network.features(x)
    error = literal.softmax(made.network.head(z)) - literal.onehot(y, CLASSES).float()
    v = fishr.variance(z, error)
    for t in range(4):
        made.objective(batches(0))
        torch.testing.assert_close(made.average[0], v * (1 - 0.9 ** (t + 1)))


def test_fishr_needs_a_linear_classifier():
    net = network()
    net.classifier = nn.Sequential(net.classifier, nn.Tanh())
    with pytest.raises(DataError, match=r"linear classifier's gradients; found a Sequential\. Use"):
        learner(METHODS["fishr"], net=net)


def test_igas_penalty_moves_the_network_and_is_right_by_finite_differences():
    made, _ = learner(replace(METHODS["iga"], weight=1.0))
    net = list(made.network.double().parameters())
    found = torch.autograd.grad(objective_of(made), net)
    plain = torch.autograd.grad(objective_of(learner(METHODS["erm"], net=made.network)[0]), net)
    assert all(not torch.allclose(a, b, rtol=1e-3) for a, b in zip(found, plain, strict=True))
    generator, values = torch.Generator().manual_seed(1), []
    way = [torch.randn(p.shape, generator=generator).double() for p in net]
    for step in (1e-5, -2e-5):
        with torch.no_grad():
            torch._foreach_add_(net, way, alpha=step)
        values.append(objective_of(made).item())
    slope = sum((g * w).sum().item() for g, w in zip(found, way, strict=True))
    assert slope == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5)


def test_rscs_percentiles_are_numpys_and_zero_still_drops_the_largest():
    values = features(5, 7)
    for share in (0.0, 1 / 3, 0.5):
        expected = values.numpy() < np.percentile(
            values.numpy(), 100 * (1 - share), axis=1, keepdims=True
        )
        assert np.array_equal(rsc.below(values, share, 1).numpy(), expected)
    assert (~rsc.below(values, 0.0, 1)).sum(1).tolist() == [1] * 5
    assert (~rsc.below(values[:, 0], 0.0, 0)).sum() == 1


def test_rscs_masks_have_no_gradient_and_mute_so_many():
    made, _ = learner(METHODS["rsc"])
    x, y, _ = pooled(batches(0))
    z = made.network.features(x)
    mask = made._mask(z.detach(), y)
    assert not mask.requires_grad
    muted = (~mask).any(1)
    # Of 24 samples those at or over the 66.7th percentile, 8; in each the top third of 6 features.
    assert muted.sum() == 8
    assert (~mask)[muted].sum(1).tolist() == [2] * 8


def test_sagnets_statistics_make_of_a_sample_what_it_was():
    z = features(4, 6)
    mean, variance, rest = sagnet.statistics(z)
    np.testing.assert_allclose(variance.numpy()[:, 0], z.numpy().var(1, ddof=1))
    torch.testing.assert_close(rest * (variance + 1e-5).sqrt() + mean, z)


def test_sagnets_style_step_takes_nothing_of_the_features():
    made, _ = learner(METHODS["sagnet"])
    before = deepcopy(made.network.state_dict())
    x, y, _ = pooled(batches(0))
    made.take(loss(made.style(made.without_content(x)), y).mean(), made.of_style)
    assert all(torch.equal(made.network.state_dict()[n], t) for n, t in before.items())
    assert all(p.grad is None or not p.grad.any() for p in made.network.parameters())


def test_selfregs_shuffles_stay_within_classes():
    labels = torch.tensor([0] * 4 + [1] * 1 + [2] * 7)
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(20):
        order = selfreg.within_classes(labels, generator)
        assert torch.equal(labels[order], labels)
        assert sorted(order.tolist()) == list(range(12))
        seen.add(tuple(order.tolist()))
    assert len(seen) > 10


@pytest.mark.parametrize(("name", "trained"), [("selfreg", True), ("selfreg-published", False)])
def test_selfregs_gradients_reach_both_branches_unless_as_published(name, trained):
    made, _ = learner(METHODS[name])
    made.backward(batches(0))
    reached = [
        p.grad is not None and p.grad.abs().sum() > 0 for p in made.projection[0].parameters()
    ]
    assert any(reached) == trained
    assert all(p.grad.abs().sum() > 0 for p in made.network.parameters())
    assert selfreg.projection(2048)[0].out_features == 2048
    assert selfreg.projection(512)[0].out_features == 1024


def test_miros_penalty_begins_at_half_the_log_of_a_tenth_and_the_old_network_stays():
    made, optimizers = learner(replace(METHODS["miro"], weight=1.0))
    before = deepcopy(made.oracle.state_dict())
    found = objective_of_float(made) - risks().mean().item()
    assert found == pytest.approx(0.5 * math.log(0.1), rel=1e-5)
    advance(made, optimizers, 3)
    assert all(torch.equal(made.oracle.state_dict()[n], t) for n, t in before.items())
    assert not made.oracle.training
    rates = [g["lr"] for o in (made.optimizer, made.of_variances) for g in o.param_groups]
    assert rates == pytest.approx([1e-2, 1e-1])


def objective_of_float(made):
    return made.objective(batches(0)).item()


def test_miros_stages_are_those_of_the_network():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.maxpool = nn.Conv2d(2, 4, 1), nn.ReLU()
            self.layer1, self.layer2, self.layer3, self.layer4 = (
                nn.Conv2d(4, 4, 1) for _ in range(4)
            )
            self.fc = nn.Linear(4, CLASSES)

        def forward(self, x):
            x = self.maxpool(self.conv1(x))
            for each in (self.layer1, self.layer2, self.layer3, self.layer4):
                x = each(x)
            return self.fc(x.mean((2, 3)))

    assert miro.stages(nn.ModuleDict({"blocks": nn.ModuleList([nn.ReLU(), nn.ReLU()])})) == [
        "blocks.0",
        "blocks.1",
    ]
    assert miro.stages(network().body) == [""]
    net = Network(Residual(), (2, 4, 4))
    made, _ = learner(METHODS["miro"], net=net)
    assert made.names == ["maxpool", "layer1", "layer2", "layer3", "layer4"]
    assert [len(v) for v in made.variances] == [4] * 5
    given = batches(0, kind="image")
    found = made.objective(given) - METHODS["erm"].learner(made.setup).objective(given)
    assert found.item() == pytest.approx(0.1 * 5 * 0.5 * math.log(0.1), rel=1e-4)
    assert not any(m._forward_hooks for m in net.modules())


PURE = {
    "coral": lambda z, *_: distances.coral(z, Members((5, 7))),
    "coral, wide": lambda z, *_: distances.coral(z.repeat(1, 5), Members((5, 7))),
    "mmd": lambda z, *_: distances.mmd(z, Members((5, 7))),
    "irm": lambda z, *_: Members((len(z),)).every_second(1, z[:, 0]).square().sum(),
    "v-rex": lambda z, *_: vrex.multipliers(z[:3, 0], 2.0),
    "eqrm": lambda z, *_: eqrm.slopes(z[:3, 0], 0.75),
    "eqrm, published": lambda z, *_: eqrm.published_slopes(z[:3, 0], 0.75),
    "fishr": lambda z, *_: fishr.variance(z, z[:, :2]),
    "rdm": lambda z, *_: rdm.discrepancy(z[:, 0], torch.full((12,), 1 / 12).double()),
    "rsc": lambda z, *_: rsc.below(z, 0.3, 1).double(),
    "gga": lambda z, *_: gga.mean_cosine(z[:4] @ z[:4].T),
    "sagnet": lambda z, *_: sagnet.statistics(z)[2],
}


@pytest.mark.parametrize("name", PURE)
def test_penalties_can_be_batched_over_runs(name):
    """So that many runs of one small network may be one program."""
    runs = torch.stack([features(12, 4, seed) for seed in range(3)])
    together = torch.vmap(PURE[name])(runs)
    torch.testing.assert_close(together, torch.stack([PURE[name](z) for z in runs]))


# Other parts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dann-published", "cdann-published"])
def test_a_step_as_published_moves_the_network_or_the_discriminator_and_never_both(name):
    made, optimizers = learner(METHODS[name])
    for of_network in (True, False, True, False):
        before = deepcopy(made.network.state_dict()), deepcopy(made.discriminator.state_dict())
        advance(made, optimizers, 1)
        after = made.network.state_dict(), made.discriminator.state_dict()
        for part, its in enumerate((of_network, not of_network)):
            same = [torch.equal(after[part][n], t) for n, t in before[part].items()]
            assert not any(same) if its else all(same)


def test_a_step_of_danns_network_confuses_the_discriminator():
    made, optimizers = learner(replace(METHODS["dann-published"], weight=1e3))
    x, _, domain = pooled(batches(0))

    def told():
        return F.cross_entropy(made.discriminator(made.network.features(x)), domain).item()

    before = told()
    advance(made, optimizers, 1)
    assert told() > before
    assert made.discriminator[-1].out_features == len(DOMAINS)


def test_cdanns_weights_by_hand():
    """Three samples of class 0, one of class 2, none of 1: C′ is 2, as published 3."""
    y = torch.tensor([0, 0, 2, 0])
    assert cdann.class_balance(y, 4).tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 2, 1 / 6])
    assert cdann.class_balance(y, 4, True).tolist() == pytest.approx([1 / 9, 1 / 9, 1 / 3, 1 / 9])


def test_urms_discriminator_stands_still_in_the_networks_step_and_its_activation_stays():
    made, _ = learner(METHODS["urm"])
    x, _, _ = pooled(batches(0))
    z = made.predictor().features(x)
    assert z.abs().max() < 1
    torch.testing.assert_close(
        made.predictor()(x), made.network.head(torch.tanh(made.network.features(x)))
    )
    before = deepcopy(made.discriminator.state_dict())
    made.take(made.hp.weight * made._told(z, 1.0), made.of_network)
    assert all(torch.equal(made.discriminator.state_dict()[n], t) for n, t in before.items())
    assert all(p.grad is None or not p.grad.any() for p in made.discriminator.parameters())
    relu, _ = learner(replace(METHODS["urm"], activation="relu"))
    assert relu.predictor().features(x).min() == 0


def test_transfers_classifier_climbs_and_stays_in_its_ball():
    hp = replace(METHODS["transfer"], learning_rate=1e-2, steps=1)
    made, _ = learner(hp)
    z, given, own = made._features(batches(0)).detach(), batches(0), made.network.classifier

    def gap():
        return made.gap(z, given, dict(made.adversary.named_parameters())).item()

    def away():
        pairs = zip(made.adversary.parameters(), own.parameters(), strict=True)
        return torch.stack([(a - b).norm() for a, b in pairs]).norm().item()

    values = [gap()]
    for steps in range(1, 8):
        made.hp = replace(hp, steps=steps)
        made._ascend(z, given)
        values.append(gap())
    assert values == sorted(values)
    assert values[-1] > values[0]
    made.hp = replace(hp, steps=20, learning_rate=10.0, radius=0.3)
    made._ascend(z, given)
    assert away() == pytest.approx(0.3, rel=1e-5)


def test_mtl_keeps_the_mean_features_and_predicts_by_the_batchs_own():
    made, _ = learner(replace(METHODS["mtl"], ema=1.0))
    made.objective(batches(0))
    x, _ = batches(0)["b"]
    torch.testing.assert_close(made.means[1], made.network.features(x).mean(0))
    predictor = made.predictor()
    assert torch.equal(predictor(x), predictor(x))
    assert not torch.equal(predictor(x)[:2], predictor(x[:2]))
    noisy = learner(METHODS["mtl-published"])[0].predictor()
    assert not torch.equal(noisy(x), noisy(x))


def test_mtls_classifier_of_constant_features_ignores_the_mean():
    made, _ = learner(METHODS["mtl"])
    with torch.no_grad():
        made.network.body[0].weight.zero_()
    x, _ = batches(0)["a"]
    assert torch.allclose(made.predictor()(x)[0], made.predictor()(x[:3])[0])


def test_arm_predicts_by_groups_of_a_training_batchs_size():
    made, optimizers = learner(METHODS["arm"])
    advance(made, optimizers, 2)
    x, _, _ = pooled(batches(9, kind="image"))
    predictor = made.predictor().eval()
    assert predictor.group == SAMPLES
    outputs = predictor(x)
    torch.testing.assert_close(outputs[:SAMPLES], predictor(x[:SAMPLES]))
    order = torch.randperm(SAMPLES)  # within a group it does not matter
    torch.testing.assert_close(predictor(x[:SAMPLES][order]), outputs[:SAMPLES][order])
    assert not torch.allclose(predictor(x[:1])[0], outputs[0])  # among which others does
    # What is left over is a group of its own; as published all is one group then.
    torch.testing.assert_close(predictor(x[:10])[:SAMPLES], outputs[:SAMPLES])
    published = learner(METHODS["arm-published"])[0]
    published.model.load_state_dict(made.model.state_dict())
    whole = published.predictor().eval()
    torch.testing.assert_close(whole(x), outputs)
    torch.testing.assert_close(whole(x[:10]), whole.outputs(x[:10], [10]))


def test_arms_objective_is_the_risk_with_the_mean_context_of_each_domain():
    made, _ = learner(METHODS["arm"])
    first, context = made.network.body[0], made.model.context.eval()
    found = made.objective(batches(0, kind="image")).item()
    each = []
    for x, y in batches(0, kind="image").values():
        c = context(x).mean(0, keepdim=True).expand(len(x), -1, -1, -1)
        z = F.conv2d(x, first.layer.weight, first.layer.bias) + F.conv2d(c, first.extra.weight)
        z = torch.tanh(z).mean((2, 3))
        each.append(literal.risk(made.network.head(z), y).item())
    assert found == pytest.approx(np.mean(each), rel=1e-5)


def test_arm_takes_images_alone_and_also_into_perceptrons():
    with pytest.raises(
        DataError, match=r"context for images .* found inputs of shape \(5,\)\. Use"
    ):
        learner(METHODS["arm"], net=network())
    flat = nn.Sequential(nn.Flatten(), nn.Linear(32, 6), nn.Tanh(), nn.Linear(6, CLASSES))
    made, optimizers = learner(METHODS["arm"], net=Network(flat, (2, 4, 4)))
    advance(made, optimizers, 1)
    assert made.network(torch.zeros(2, 2, 4, 4)).shape == (2, CLASSES)  # without context, too
    grouped = nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten(), nn.Linear(16, CLASSES))
    with pytest.raises(DataError, match=r"a plain convolution or a linear one; found none"):
        learner(METHODS["arm"], net=Network(grouped, (2, 4, 4)))


@pytest.mark.parametrize(
    ("backbone", "stages", "first"),
    [
        ("test_resnet", ["maxpool", "layer1", "layer2", "layer3", "layer4"], "conv1.0"),
        ("test_vit", [f"blocks.{at}" for at in range(6)], "patch_embed.proj"),
        ("test_convnext", [f"stages.{at}" for at in range(4)], "stem.0"),
    ],
)
def test_backbones_of_timm_have_stages_and_a_first_layer(backbone, stages, first):
    timm = pytest.importorskip("timm")
    for name in ("miro", "arm"):
        size = {"img_size": 32} if backbone == "test_vit" else {}
        net = Network(timm.create_model(backbone, num_classes=CLASSES, **size), (3, 32, 32))
        made, _ = learner(METHODS[name], net=net)
        assert name == "arm" or made.names == stages
        assert name == "miro" or type(net.body.get_submodule(first)).__name__ == "Widened"
        x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        made.update({domain: (x, torch.tensor([0, 1])) for domain in DOMAINS})
        assert made.metrics()["risk"] > 0


@pytest.mark.parametrize("name", ["arm", "mtl", "urm"])
def test_a_model_file_predicts_as_the_run_did(name, tmp_path):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 30, 2, 8, 8, generator=generator)
    domains = {
        f"site-{k}": TensorDataset(x[k], (x[k].mean((1, 2, 3)) > 0).long()) for k in range(3)
    }
    result = train(
        domains, tmp_path, hold_out="site-2", method=name, steps=4, batch=5, checkpoints=1,
        backbone="mnist-cnn", accelerator="cpu",
    )  # fmt: skip
    assert result.model.facts["method"] == name
    held_out = domains["site-2"].tensors[0]
    chances = result.model.outputs(held_out)
    assert chances.shape == (30, 2)
    again = result.model.outputs(held_out)
    assert torch.equal(chances, again)


# Steps ------------------------------------------------------------------------------------------


def test_fish_all_the_way_on_one_domain_is_erm():
    hp = replace(METHODS["fish"], epsilon=1.0)
    made, optimizers = learner(hp, domains=DOMAINS[:1])
    plain, its = learner(METHODS["erm"], domains=DOMAINS[:1])
    for each, of in ((made, optimizers), (plain, its)):
        advance(each, of, 3, DOMAINS[:1])
    for a, b in zip(made.network.parameters(), plain.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_fish_copies_whole_numbers_where_it_interpolates_the_rest():
    one, other = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    other(torch.randn(4, 2))
    other.num_batches_tracked.fill_(7)
    expected = 0.75 * one.running_mean + 0.25 * other.running_mean
    passes.interpolate(one, other, 0.25)
    assert one.num_batches_tracked == 7
    torch.testing.assert_close(one.running_mean, expected)


def test_mldgs_gradient_after_no_step_is_both_gradients():
    """With an inner learning rate of almost 0."""
    made, _ = learner(replace(METHODS["mldg"], beta=0.7, tests=1), learning_rate=1e-12)
    order = torch.randperm(3, generator=torch.Generator().manual_seed(2)).tolist()
    each = list(batches(0).values())
    g = [
        torch.autograd.grad(loss(made.network(x), y).mean(), list(made.network.parameters()))
        for x, y in each
    ]
    made.backward(batches(0))
    for at, found in enumerate(gradients(made)):
        wanted = sum(g[i][at] + 0.7 * g[order[2]][at] for i in order[:2]) / 3
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)


def gram(seed, count):
    h = torch.randn(count, 9, generator=torch.Generator().manual_seed(seed)).double() + 0.2
    return h @ h.T


def value_of(g, w, kappa):
    g = g.numpy()
    c = kappa * np.sqrt(g.mean() + 1e-4)
    return w @ g.mean(1) + c * np.sqrt(w @ g @ w + 1e-4)


@pytest.mark.parametrize("kappa", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_pogms_weights_of_two_domains_are_those_of_a_grid(seed, kappa):
    g = gram(seed, 2)
    weights, _ = pogm.simplex_weights(g, kappa)
    grid = [np.array([u, 1 - u]) for u in np.linspace(0, 1, 20001)]
    best = min(grid, key=lambda w: value_of(g, w, kappa))
    assert weights[0] == pytest.approx(best[0], abs=1e-4)
    assert value_of(g, weights, kappa) <= value_of(g, best, kappa) + 1e-10


def test_pogms_weights_follow_the_domains_order():
    g = gram(5, 4)
    weights, scale = pogm.simplex_weights(g, 0.5)
    assert weights.sum() == pytest.approx(1)
    for order in list(permutations(range(4)))[::5]:
        others, its = pogm.simplex_weights(g[list(order)][:, list(order)], 0.5)
        assert others == pytest.approx(weights[list(order)], abs=1e-5)
        assert its == pytest.approx(scale, rel=1e-5)


@pytest.mark.parametrize(("kappa", "epsilon"), [(0.0, 0.5), (0.5, 1.0)])
def test_pogm_takes_part_of_the_mean_way_without_kappa_and_of_equal_ways_its_factor(kappa, epsilon):
    hp = replace(METHODS["pogm"], kappa=kappa, epsilon=epsilon)
    made, _ = learner(hp)
    start = [p.detach().clone() for p in made.network.parameters()]
    given = batches(0)
    if kappa:
        given = dict.fromkeys(given, given["a"])
    made.update(given)
    factor = epsilon * (1 + kappa) / (1 + kappa**2)
    clones = [list(clone.parameters()) for clone in made.clones]
    for at, (p, before) in enumerate(zip(made.network.parameters(), start, strict=True)):
        way = torch.stack([clone[at] - before for clone in clones]).mean(0)
        # The floors of 1e-4 under the roots are some of that.
        torch.testing.assert_close(p - before, factor * way, rtol=2e-3, atol=1e-6)


def test_sam_leaves_the_weights_where_they_were_and_statistics_with_one_pass():
    net = Network(nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, CLASSES)), (5,))
    made, _ = learner(METHODS["sam"], net=net.train())
    before = [p.detach().clone() for p in net.parameters()]
    plain = deepcopy(net)
    plain(pooled(batches(0))[0])
    made.backward(batches(0))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), before, strict=True))
    torch.testing.assert_close(net.body[1].running_mean, plain.body[1].running_mean)
    assert net.body[1].num_batches_tracked == 1


def test_sams_overflow_leaves_no_trace_in_weights_or_statistics():
    """The first scale of fp16 is too large: the way up is not finite, and the step is left out."""
    scaler = GradScaler("cpu", init_scale=2.0**127)
    made, _ = learner(
        METHODS["sam"], net=with_norm(), scaler=scaler, loss=lambda o, y: 1e6 * loss(o, y)
    )
    before = [p.detach().clone() for p in made.network.parameters()]
    made.update(batches(0))
    assert all(torch.equal(a, b) for a, b in zip(made.network.parameters(), before, strict=True))
    assert all(buffer.isfinite().all() for buffer in made.network.buffers())


def with_norm():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, CLASSES))
    return Network(layers, (5,)).train()


@pytest.mark.parametrize(("name", "rate"), [("lp-ft", 1e-2), ("erm++", 5e-5)])
def test_the_classifier_is_trained_first_and_the_rest_stands_still_to_the_bit(name, rate):
    made, optimizers = learner(replace(METHODS[name], linear_share=3 / STEPS), net=with_norm())
    assert made.of_head.param_groups[0]["lr"] == pytest.approx(rate)
    body = deepcopy(made.network.body.state_dict())
    for step in range(5):
        head = made.network.classifier.weight.detach().clone()
        advance(made, optimizers, 1)
        now = made.network.body.state_dict()
        assert all(torch.equal(now[n], t) for n, t in body.items()) == (step < 3)
        assert not torch.equal(made.network.classifier.weight, head)
        assert made.network.body.training
    assert {int(s["step"]) for s in made.of_all.state.values()} == {2}  # fresh, also the head's


def test_genie_moves_what_is_sure_and_keeps_a_share():
    hp = replace(METHODS["genie"], dropped=0.0, learning_rate=1.0, average=0.9)
    made, _ = learner(hp)
    p = nn.Parameter(torch.zeros(2))
    optimizer = made.optimizer
    optimizer.param_groups[0]["params"] = [p]
    sign = 1.0
    for _ in range(200):  # one component has always the same gradient, the other one alternates
        p.grad = torch.tensor([0.1, 0.1 * sign])
        sign = -sign
        before = p.detach().clone()
        optimizer.step()
    moved = (p - before).abs()
    assert moved[0].item() == pytest.approx(0.1, rel=1e-3)
    assert moved[1].item() < 1e-3
    optimizer.param_groups[0]["dropped"] = 0.75
    wide = nn.Parameter(torch.zeros(4000))
    optimizer.param_groups[0]["params"] = [wide]
    wide.grad = torch.ones(4000)
    optimizer.step()
    assert (wide != 0).double().mean().item() == pytest.approx(0.25, abs=0.03)
    assert wide.min().item() == pytest.approx(-1 / 0.25, rel=1e-3)


def test_the_q_weighted_mean_is_the_mean_where_domains_agree_and_nothing_where_they_cancel():
    g = torch.tensor([[1.0, 1.0, 0.0, 1e-20], [1.0, -1.0, 0.0, 3e-20], [1.0, 0.0, 3.0, 2e-20]])
    # Σg = 3, 0, 3, 6; Σg² = 3, 2, 9, 14; q = 1, 0, 1/3, 36/42.
    expected = [1.0, 0.0, 1 / 3, 2e-20 * 36 / 42]
    assert QMean()(g.double()).tolist() == pytest.approx(expected, rel=1e-12)
    assert QMean()(torch.tensor([[float("nan")], [1.0]])).isnan().all()


def test_ggas_noise_goes_with_disagreement():
    equal = torch.ones(3, 3)
    assert gga.mean_cosine(equal).item() == pytest.approx(1)
    assert gga.mean_cosine(torch.eye(3)).item() == pytest.approx(0)
    opposite = torch.tensor([[4.0, -6.0], [-6.0, 9.0]])
    assert gga.mean_cosine(opposite).item() == pytest.approx(-1)
    assert gga.mean_cosine(torch.zeros(2, 2)) == 0


@pytest.mark.parametrize(("name", "signs"), [("gga-l", {-1, 1}), ("gga-l-published", {1})])
def test_noise_as_published_has_a_mean(name, signs):
    made, _ = learner(replace(METHODS[name], gamma=100.0))
    plain, _ = learner(METHODS["erm"])
    for each in (made, plain):
        each.backward(batches(0))
    noise = [a - b for a, b in zip(gradients(made), gradients(plain), strict=True)]
    assert set(torch.cat([e.flatten() for e in noise]).sign().tolist()) == signs


# SWAD, a sketch ---------------------------------------------------------------------------------


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
