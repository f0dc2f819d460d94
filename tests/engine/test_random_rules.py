"""Rules that draw: scale of the noise, seeds, checkpoints."""

import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import domaingrad as dg

MAKES: dict[str, Callable[[], dg.rules.Rule]] = {"agr-rand": dg.AgrRand, "pcgrad": dg.PCGrad}


def conflicting_step(agree: dg.GradientAgreement, seed: int) -> list[Tensor]:
    """One step with five random domains, so that PCGrad's order matters; returns the update."""
    draw = torch.Generator().manual_seed(seed)
    agree.model.zero_grad()
    for e in range(5):
        with agree.domain(e):
            sum(
                (p * torch.randn(p.shape, generator=draw)).sum() for p in agree.model.parameters()
            ).backward()
    agree.combine()
    return [parameter.grad.clone() for parameter in agree.model.parameters()]


def build() -> nn.Linear:
    return nn.Linear(3, 2)


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def through_a_file(state: dict[str, object]) -> dict[str, object]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("rule", MAKES)
def test_a_checkpoint_goes_on_with_the_same_numbers(rule: str) -> None:
    agree = dg.GradientAgreement(build(), MAKES[rule]())
    conflicting_step(agree, 0)
    state = through_a_file(agree.state_dict())
    expected = [conflicting_step(agree, seed) for seed in (1, 2)]

    resumed = dg.GradientAgreement(build(), MAKES[rule]())
    from_the_start = [conflicting_step(resumed, seed) for seed in (1, 2)]
    resumed.load_state_dict(state)
    actual = [conflicting_step(resumed, seed) for seed in (1, 2)]

    assert all(equal(a, e) for a, e in zip(actual, expected, strict=True))
    assert not equal(from_the_start[0], expected[0]), "else the state would not matter"


@pytest.mark.parametrize("rule", MAKES)
def test_a_checkpoint_taken_before_the_first_step(rule: str) -> None:
    agree = dg.GradientAgreement(build(), MAKES[rule]())
    state = through_a_file(agree.state_dict())
    expected = conflicting_step(agree, 0)
    agree.load_state_dict(state)
    assert equal(conflicting_step(agree, 0), expected)


@pytest.mark.parametrize("rule", MAKES)
def test_the_state_is_that_of_the_generator_that_was_passed(rule: str) -> None:
    generator = torch.Generator().manual_seed(5)
    agree = dg.GradientAgreement(build(), type(MAKES[rule]())(generator=generator))  # type: ignore[call-arg]
    state = agree.state_dict()
    expected = conflicting_step(agree, 0)
    other = dg.GradientAgreement(build(), MAKES[rule]())
    other.load_state_dict(state)
    assert equal(conflicting_step(other, 0), expected)


@pytest.mark.parametrize("rule", MAKES)
def test_saving_between_steps_leaves_the_numbers(rule: str) -> None:
    agree, saved = (dg.GradientAgreement(build(), MAKES[rule]()) for _ in range(2))
    for seed in range(3):
        saved.state_dict()
        assert equal(conflicting_step(agree, seed), conflicting_step(saved, seed))


@pytest.mark.parametrize("rule", MAKES)
def test_the_global_random_state_is_neither_read_nor_moved(rule: str) -> None:
    updates = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        agree = dg.GradientAgreement(build(), MAKES[rule]())
        after_build = torch.get_rng_state()
        updates.append(conflicting_step(agree, 0))
        assert torch.equal(torch.get_rng_state(), after_build)
        assert not torch.equal(before, after_build)
    assert equal(*updates)


@pytest.mark.parametrize("rule", ["mean", "and", "sand", "agr-sum"])
def test_rules_that_draw_nothing_have_a_state_too(rule: str) -> None:
    make = {"mean": dg.Mean, "and": dg.ANDMask, "sand": dg.SANDMask, "agr-sum": dg.AgrSum}[rule]
    agree = dg.GradientAgreement(build(), make())
    agree.load_state_dict(through_a_file(agree.state_dict()))
    conflicting_step(agree, 0)


@pytest.mark.parametrize("way", ["waiting", "open"])
def test_a_checkpoint_within_a_step_is_refused(way: str) -> None:
    """The gradients taken so far are not in it."""
    agree = dg.GradientAgreement(build(), dg.AgrRand())
    with agree.domain("a"):
        agree.model.weight.sum().backward()
        if way == "open":
            with pytest.raises(dg.AgreementError, match="'a'"):
                agree.state_dict()
    if way == "waiting":
        with pytest.raises(dg.AgreementError, match=r"'a'.*combine.*between steps"):
            agree.state_dict()


def parts() -> nn.ParameterList:
    """Two tensors whose gradients differ 1000-fold in size."""
    return nn.ParameterList([torch.zeros(20_000), torch.zeros(20_000)])


def noise_in_parts(rule: dg.AgrRand, factor: float = 1.0) -> tuple[list[Tensor], list[Tensor]]:
    """The updates and the stacked gradients of three domains."""
    model, draw = parts(), torch.Generator().manual_seed(0)
    gradients = [factor * size * torch.randn(3, 20_000, generator=draw) for size in (1.0, 1000.0)]
    agree = dg.GradientAgreement(model, rule)
    for e in range(3):
        with agree.domain(e):
            sum((p * g[e]).sum() for p, g in zip(model, gradients, strict=True)).backward()
    agree.combine()
    return [p.grad for p in model], gradients


def test_agr_rand_draws_with_one_scale_for_the_whole_model() -> None:
    updates, gradients = noise_in_parts(dg.AgrRand())
    agree = [g.sign().sum(0).abs() == 3 for g in gradients]
    sums = torch.cat([g.sum(0).abs()[a] for g, a in zip(gradients, agree, strict=True)])
    scale = sums.mean().item()
    for update, a in zip(updates, agree, strict=True):
        noise = update[~a]
        # Three of four components disagree, 15 000 draws: the standard deviation is known to
        # 1 / √30 000 = 0.6 % and the mean to 0.8 % of it; five times that is allowed.
        assert abs(noise.std().item() / scale - 1) < 0.03
        assert abs(noise.mean().item() / scale) < 0.04


def test_agr_rand_scales_its_noise_with_the_gradients() -> None:
    one, _ = noise_in_parts(dg.AgrRand())
    eight, _ = noise_in_parts(dg.AgrRand(), factor=8.0)
    for small, large in zip(one, eight, strict=True):
        # Powers of two: the same draws, exactly eight times as large.
        assert torch.equal(large, 8.0 * small)


def test_agr_rand_draws_anew_for_each_tensor_and_step() -> None:
    agree = dg.GradientAgreement(nn.Linear(100, 1, bias=False), dg.AgrRand())
    draws = []
    for _ in range(2):
        agree.model.zero_grad()
        for sign in (1.0, -1.0, 3.0):
            with agree.domain(sign):
                agreeing = torch.ones(1, 100)
                agreeing[0, 1:] = sign
                (agree.model.weight * agreeing).sum().backward()
        agree.combine()
        draws.append(agree.model.weight.grad[0, 1:].clone())
    assert not torch.equal(*draws)
    assert len(draws[0].unique()) > 90
