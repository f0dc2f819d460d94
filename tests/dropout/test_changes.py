"""Optimisers, models and passes that change or break between and within steps."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

import domaingrad as dg

from .test_gsnr_dropout import data, held, losses_of, perceptron


def momentum(parameters):
    return torch.optim.SGD(parameters, 0.1, momentum=0.9, weight_decay=0.1)


def step(model, optimizer, dropout, number):
    x, y = data(number)
    dropout.update(x, losses_of(y))
    F.cross_entropy(model(x), y).backward()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.step()
    optimizer.zero_grad()
    return {name: p.detach() - before[name] for name, p in model.named_parameters()}


def assert_dropped_stayed(dropout, moved):
    for name, kept in dropout.masks.items():
        assert not moved[name][~kept].any()


def test_the_choice_may_be_made_in_a_closure():
    model = perceptron()
    optimizer = momentum(model.parameters())
    dropout = held(model, optimizer, ratio=0.4)
    for number in range(3):
        x, y = data(number)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}

        def closure():
            optimizer.zero_grad()
            dropout.update(x, losses_of(y))  # noqa: B023 - called within the turn
            loss = F.cross_entropy(model(x), y)  # noqa: B023
            loss.backward()
            return loss

        optimizer.step(closure)
        moved = {name: p.detach() - before[name] for name, p in model.named_parameters()}
        assert_dropped_stayed(dropout, moved)


def test_parameters_that_join_the_optimiser_later_are_held():
    model = perceptron()
    optimizer = momentum(model[0].parameters())
    dropout = held(model, optimizer, ratio=0.4)
    with pytest.raises(RuntimeError, match=r"Found none for 2\.weight"):
        step(model, optimizer, dropout, 0)
    optimizer.add_param_group({"params": list(model[2].parameters())})
    for number in range(3):
        assert_dropped_stayed(dropout, step(model, optimizer, dropout, number))


def test_several_optimisers_are_held():
    model = perceptron()
    optimizers = [momentum(model[0].parameters()), momentum(model[2].parameters())]
    dropout = held(model, optimizers[0], ratio=0.4)
    dropout.hold(optimizers[1])
    for number in range(3):
        x, y = data(number)
        dropout.update(x, losses_of(y))
        F.cross_entropy(model(x), y).backward()
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        moved = {name: p.detach() - before[name] for name, p in model.named_parameters()}
        assert_dropped_stayed(dropout, moved)


def test_another_precision_between_steps():
    model = perceptron()
    optimizer = momentum(model.parameters())
    dropout = held(model, optimizer, ratio=0.4)
    step(model, optimizer, dropout, 0)
    model.double()
    x, y = data(1)
    dropout.update(x.double(), losses_of(y))
    F.cross_entropy(model(x.double()), y).backward()
    for group in optimizer.state.values():
        group["momentum_buffer"] = group["momentum_buffer"].double()
    with torch.no_grad():
        model[0].weight += 1e-12
    before = model[0].weight.detach().clone()
    optimizer.step()
    assert torch.equal(
        model[0].weight[~dropout.masks["0.weight"]], before[~dropout.masks["0.weight"]]
    )


@pytest.mark.parametrize("times", [1, 3])
def test_a_hook_that_fails_before_ours_does_not_end_the_dropout(times):
    model, (x, y) = perceptron(), data()
    dropout = held(model, ratio=0.5)
    dropout.update(x, losses_of(y))
    expected = model(x)

    def fail(*_):
        raise ZeroDivisionError

    handle = nn.modules.module.register_module_forward_pre_hook(fail)
    for _ in range(times):
        with pytest.raises(ZeroDivisionError):
            model(x)
    handle.remove()
    assert torch.equal(model(x), expected)
    assert isinstance(model[0].weight, nn.Parameter)


def test_an_interrupt_is_forgotten_by_the_next_pass_or_update():
    model, (x, y) = perceptron(), data()
    dropout = held(model, ratio=0.5)
    dropout.update(x, losses_of(y))
    expected = model(x)

    def interrupt(*_):
        raise KeyboardInterrupt

    for recover in (lambda: model(x), lambda: dropout.update(x, losses_of(y))):
        handle = model[1].register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            model(x)
        handle.remove()
        recover()
        assert isinstance(model[0].weight, nn.Parameter)
        assert torch.equal(model(x), expected)


def test_a_frozen_weight_is_no_longer_masked_by_accident():
    dropout = held(ratio=0.3, model=perceptron())
    dropout.model[0].requires_grad_(False)
    x, y = data()
    with pytest.raises(RuntimeError, match=r"'0\.weight' is frozen now"):
        dropout.update(x, losses_of(y))


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
        nn.utils.spectral_norm,
    ],
)
def test_layers_that_are_reworked_go_on_to_work(change):
    model, (x, y) = perceptron(), data()
    dropout = held(model, ratio=0.3)
    change(model[0])
    expected = model(x)
    with pytest.raises(RuntimeError, match=r"no longer the weight it was\. Call remove"):
        dropout.update(x, losses_of(y))
    dropout.remove()
    torch.testing.assert_close(model.eval()(x), expected, rtol=0.2, atol=0.2)
    assert type(model[0]) is nn.Linear


def test_a_parametrised_layer_is_not_torn_apart():
    model, (x, y) = perceptron(), data()
    dropout = held(model, ratio=0.3)
    parametrizations.weight_norm(model[0])
    with pytest.raises(RuntimeError, match="Call remove"):
        dropout.update(x, losses_of(y))
    with pytest.raises(RuntimeError, match="Undo that change first"):
        dropout.remove()
    model(x)


def test_a_state_is_a_copy():
    model = perceptron()
    optimizer = momentum(model.parameters())
    dropout = held(model, optimizer)
    x, y = data()
    domain = torch.arange(len(y)) % 3
    dropout.update(x, losses_of(y), domain)
    state = dropout.state_dict()
    kept = copy.deepcopy(state)
    for _ in range(3):
        dropout.update(x, losses_of(y), domain)
    again, as_copied = (held(perceptron()) for _ in range(2))
    again.load_state_dict(state)
    as_copied.load_state_dict(kept)
    for one in (again, as_copied):
        one.update(x, losses_of(y), domain)
    assert again.ratios == as_copied.ratios


def test_a_state_that_does_not_fit_changes_nothing():
    dropout = held(perceptron(), ratio=0.3)
    x, y = data()
    dropout.update(x, losses_of(y))
    before = dropout.masks
    state = dropout.state_dict()
    broken = {**state, "masks": {**state["masks"], "0.weight": torch.ones(1, 6, dtype=torch.bool)}}
    with pytest.raises(ValueError, match=r"mask of '0.weight' has shape \[1, 6\]; found \[10, 6\]"):
        dropout.load_state_dict(broken)
    with pytest.raises(ValueError, match="found no generator, masks, ratios, scales, updates"):
        dropout.load_state_dict({})
    assert all(torch.equal(before[name], kept) for name, kept in dropout.masks.items())


def test_inference_mode_is_answered():
    dropout = held(perceptron(), ratio=0.3)
    x, y = data()
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        dropout.update(x, losses_of(y))


def test_losses_that_mix_samples_are_refused_on_the_slow_path_too():
    model, (x, _) = perceptron(), data()
    model[0].weight.register_hook(lambda gradient: gradient)
    with pytest.raises(dg.AgreementError, match="depend on outputs of another"):
        dg.signal_to_noise(model, x, lambda out: (out - out.mean(0)).square().sum(1))
