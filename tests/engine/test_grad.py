"""What happens to ``.grad``: accumulated as by ``backward``, and otherwise left alone."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import domaingrad as dg

from .problems import PROBLEMS
from .separate_passes import WAYS, Way, agreed_gradients, model_of, reference_and_copy

RULES = {"and": dg.ANDMask, "agr-rand": dg.AgrRand, "pcgrad": dg.PCGrad}


def run(agree: dg.GradientAgreement, way: Way, scale: float = 1.0) -> None:
    """One step of two domains that conflict in some components."""
    x = torch.linspace(-1, 1, 24).reshape(8, 3) * scale
    y = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1])
    domain = torch.tensor([4, 9] * 4)
    if way == "mixed batch":
        agree.backward(F.cross_entropy(agree(x, domain), y, reduction="none"))
    else:
        for label in (4, 9):
            with agree.domain(label):
                F.cross_entropy(agree.model(x[domain == label]), y[domain == label]).backward()
        agree.combine()


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def grads(model: nn.Module) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rule", RULES)
def test_the_update_is_added_to_an_existing_grad(rule: str, way: Way) -> None:
    alone, added = small(), small()
    run(dg.GradientAgreement(alone, RULES[rule]()), way)
    before = [torch.randn_like(parameter) for parameter in added.parameters()]
    for parameter, value in zip(added.parameters(), before, strict=True):
        parameter.grad = value.clone()
    run(dg.GradientAgreement(added, RULES[rule]()), way)
    for update, start, total in zip(grads(alone), before, grads(added), strict=True):
        # One float32 rounding of the sum.
        torch.testing.assert_close(total, start + update, rtol=0, atol=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_micro_batches_accumulate(way: Way) -> None:
    model = small()
    agree = dg.GradientAgreement(model, dg.ANDMask())
    parts = []
    for scale in (1.0, -0.3):
        model.zero_grad()
        run(agree, way, scale)
        parts.append(grads(model))
    model.zero_grad()
    run(agree, way, 1.0)
    run(agree, way, -0.3)
    for first, second, total in zip(*parts, grads(model), strict=True):
        torch.testing.assert_close(total, first + second, rtol=0, atol=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_an_existing_grad_does_not_vote(way: Way) -> None:
    """The domains' gradients are taken without what lies in ``.grad``: a mask shows it."""
    clean, loaded = small(), small()
    for parameter in loaded.parameters():
        parameter.grad = torch.full_like(parameter, 1e3)
    run(dg.GradientAgreement(clean, dg.ANDMask(rescale=False)), way)
    run(dg.GradientAgreement(loaded, dg.ANDMask(rescale=False)), way)
    for update, total in zip(grads(clean), grads(loaded), strict=True):
        torch.testing.assert_close(total - 1e3, update, rtol=0, atol=1e-3)


@pytest.mark.parametrize("way", WAYS)
def test_frozen_parameters_keep_their_grad(way: Way) -> None:
    _, _, model = reference_and_copy(PROBLEMS["frozen parameters"])
    kept = torch.full_like(model[0].weight, 5.0)
    model[0].weight.grad = kept
    actual = agreed_gradients(PROBLEMS["frozen parameters"], model, dg.Mean(), way)
    assert model[0].weight.grad is kept
    assert (kept == 5.0).all()
    assert actual["2.bias"] is None


@pytest.mark.parametrize("way", WAYS)
def test_parameters_that_no_domain_uses_keep_their_grad(way: Way) -> None:
    model = model_of(PROBLEMS["unused by all"])
    kept = torch.full_like(model.spare.weight, 5.0)
    model.spare.weight.grad = kept
    agreed_gradients(PROBLEMS["unused by all"], model, dg.AgrRand(), way)
    assert model.spare.weight.grad is kept
    assert (kept == 5.0).all()
    assert model.spare.bias.grad is None


def test_frozen_and_unfrozen_between_steps() -> None:
    model = small()
    agree = dg.GradientAgreement(model, dg.Mean())
    model[0].requires_grad_(False)
    run(agree, "mixed batch")
    assert model[0].weight.grad is None
    model[0].requires_grad_(True)
    run(agree, "mixed batch")
    assert model[0].weight.grad is not None


def test_grad_is_as_before_after_each_block() -> None:
    model = small()
    agree = dg.GradientAgreement(model, dg.Mean())
    kept = [torch.ones_like(parameter) for parameter in model.parameters()]
    for parameter, value in zip(model.parameters(), kept, strict=True):
        parameter.grad = value
    for name in "ab":
        with agree.domain(name):
            assert all(parameter.grad is None for parameter in model.parameters())
            model(torch.ones(2, 3)).sum().backward()
        for parameter, value in zip(model.parameters(), kept, strict=True):
            assert parameter.grad is value
            assert (value == 1.0).all()


def test_several_backward_calls_in_a_block_add_up() -> None:
    model = small()
    agree = dg.GradientAgreement(model, dg.Mean())
    x = torch.randn(4, 3)
    with agree.domain("a"):
        for row in x:
            model(row).sum().backward()
    agree.combine()
    expected = torch.autograd.grad(model(x).sum(), list(model.parameters()))
    for update, gradient in zip(grads(model), expected, strict=True):
        torch.testing.assert_close(update, gradient)


def test_clipping_in_a_block_clips_that_domain() -> None:
    model = nn.Linear(2, 1, bias=False)
    agree = dg.GradientAgreement(model, dg.Mean())
    for name, size in (("a", 3.0), ("b", 400.0)):
        with agree.domain(name):
            (model.weight[0, 0] * size).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    agree.combine()
    # clip_grad_norm_ divides by norm + 1e-6.
    torch.testing.assert_close(model.weight.grad, torch.tensor([[1.0, 0.0]]), rtol=1e-5, atol=0)


def test_parameters_of_the_criterion_get_the_sum_over_domains() -> None:
    """A learned temperature outside of the model: a plain gradient, of the losses as given."""
    model = small()
    agree = dg.GradientAgreement(model, dg.ANDMask())
    temperature = torch.tensor(2.0, requires_grad=True)
    x, y = torch.randn(6, 3), torch.tensor([0, 1, 1, 0, 1, 0])
    domain = torch.tensor([0, 0, 1, 1, 1, 1])
    losses = F.cross_entropy(agree(x, domain) / temperature, y, reduction="none")
    agree.backward(losses)
    actual = temperature.grad
    plain = F.cross_entropy(model(x) / temperature, y, reduction="none")
    expected = torch.autograd.grad(plain[:2].mean() + plain[2:].mean(), temperature)[0]
    torch.testing.assert_close(actual, expected)


def test_a_penalty_on_the_parameters_joins_each_domain() -> None:
    model = small()
    agree = dg.GradientAgreement(model, dg.Mean())
    x, domain = torch.randn(6, 3), torch.tensor([0, 0, 1, 1, 1, 1])
    agree.backward(agree(x, domain).sum(1) + 10.0 * model[0].weight.square().sum())
    out = model(x).sum(1)
    mean = (out[:2].mean() + out[2:].mean()) / 2 + 10.0 * model[0].weight.square().sum()
    expected = torch.autograd.grad(mean, model[0].weight)[0]
    torch.testing.assert_close(model[0].weight.grad, expected)


def test_the_graph_is_freed_after_backward() -> None:
    model = small()
    agree = dg.GradientAgreement(model, dg.Mean())
    losses = agree(torch.randn(4, 3), torch.tensor([0, 1, 0, 1])).square().sum(1)
    agree.backward(losses)
    with pytest.raises(RuntimeError, match="second time"):
        losses.sum().backward()


def test_half_precision_parameters_get_half_precision_grads() -> None:
    model = small().bfloat16()
    agree = dg.GradientAgreement(model, dg.Mean())
    gradients = (1.0, 2.0**-10, 2.0**-10, 2.0**-10)
    for name, size in enumerate(gradients):
        with agree.domain(name):
            (model[2].bias * size).sum().backward()
    agree.combine()
    assert model[2].bias.grad.dtype == torch.bfloat16
    # 1 + 3·2⁻¹⁰ summed in bfloat16 stays 1; summed in float32 and rounded once it is the nearest
    # bfloat16 of a quarter of it.
    expected = torch.tensor(sum(gradients) / 4).bfloat16()
    assert (model[2].bias.grad == expected).all()


def test_layouts_of_memory_are_free() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(36, 2)).double()
    last = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(36, 2)).double()
    last.load_state_dict(plain.state_dict())
    last.to(memory_format=torch.channels_last)
    x, domain = torch.randn(6, 3, 5, 5).double(), torch.tensor([0, 1] * 3)
    for model in (plain, last):
        agree = dg.GradientAgreement(model, dg.SANDMask())
        agree.backward(agree(x.contiguous(), domain).square().sum(1))
    torch.testing.assert_close(last[0].weight.grad, plain[0].weight.grad, rtol=1e-9, atol=1e-12)


def test_lazy_parameters_are_found_at_the_first_step() -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.Tanh(), nn.Linear(4, 2))
    agree = dg.GradientAgreement(model, dg.Mean())
    run(agree, "mixed batch")
    assert model[0].weight.grad.shape == (4, 3)


def test_gradients_that_share_storage_are_not_folded_in_place() -> None:
    """DDP's bucket views: the next backward writes where the first domain's gradient lay."""
    model = nn.Linear(2, 1, bias=False)
    bucket = torch.zeros(10)
    agree = dg.GradientAgreement(model, dg.Mean())
    for name, size in (("a", 1.0), ("b", 5.0)):
        with agree.domain(name):
            bucket[:2] = size
            model.weight.grad = bucket[:2].view(1, 2)
    agree.combine()
    assert model.weight.grad.tolist() == [[3.0, 3.0]]


def test_a_disabled_scaler_leaves_the_warning_on() -> None:
    model = nn.Linear(2, 1)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    agree = dg.GradientAgreement(model, dg.Mean(), scaler=scaler)
    with agree.domain("a"):
        (model.weight * float("nan")).sum().backward()
    with pytest.warns(dg.NonFiniteGradientWarning, match="domain 'a'"):
        agree.combine()


def test_complex_parameters_are_refused() -> None:
    model = nn.Linear(2, 1, dtype=torch.complex64)
    with pytest.raises(TypeError, match="complex parameters"):
        dg.GradientAgreement(model, dg.Mean())
