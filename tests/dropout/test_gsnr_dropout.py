"""GSNR-guided dropout in a training loop, against one backward pass a sample."""

import copy
import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import domaingrad as dg

N, K = 12, 3
DOMAIN = torch.arange(N) % K


def data(seed=0, n=N, width=6):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, width, generator=generator)
    return x, (x[:, 0] > 0).long()


def perceptron(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 2))


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Unflatten(1, (1, 6)),
        nn.Conv1d(1, 4, 3, padding=1),
        nn.BatchNorm1d(4),
        nn.ReLU(),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(24, 2),
    )


def losses_of(y):
    return lambda outputs: F.cross_entropy(outputs, y, reduction="none")


def held(model, optimizer=None, **options):
    dropout = dg.GSNRDropout(model, **options)
    dropout.hold(optimizer or torch.optim.SGD(model.parameters(), 0.1))
    return dropout


def sample_gradients(model, x, y, name):
    rows = []
    for i in range(len(x)):
        model.zero_grad()
        F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]).backward()
        rows.append(dict(model.named_parameters())[name].grad.numpy().copy())
    model.zero_grad()
    return np.stack(rows).astype(np.float64)


def q_of(g):
    mean_square = np.square(g).mean(0)
    with np.errstate(invalid="ignore"):
        return np.where(mean_square > 0, g.mean(0) ** 2 / mean_square, 0.0)


@pytest.mark.parametrize("ratio", [0.1, 1 / 3, 0.77])
@pytest.mark.parametrize("name", ["0.weight", "2.weight"])
def test_the_components_with_the_highest_ratio_are_dropped(ratio, name):
    model, (x, y) = perceptron().double(), data()
    x = x.double()
    q = q_of(sample_gradients(model, x, y, name))
    dropout = held(model, ratio=ratio)
    dropout.update(x, losses_of(y))
    kept = dropout.masks[name].numpy()
    count = round(ratio * q.size)
    assert (~kept).sum() == count
    assert q[~kept].min() >= q[kept].max() - 1e-12
    assert dropout.masks.keys() == {"0.weight", "2.weight"}


def test_over_the_whole_model_one_ranking_decides():
    model, (x, y) = perceptron().double(), data()
    x = x.double()
    names = ["0.weight", "2.weight"]
    q = np.concatenate([q_of(sample_gradients(model, x, y, name)).ravel() for name in names])
    dropout = held(model, ratio=0.4, scope="model")
    dropout.update(x, losses_of(y))
    kept = np.concatenate([dropout.masks[name].numpy().ravel() for name in names])
    assert (~kept).sum() == round(0.4 * q.size)
    assert q[~kept].min() >= q[kept].max() - 1e-12


@pytest.mark.parametrize("over", ["domains", "micro-batches"])
def test_units_may_be_domains_or_micro_batches(over):
    model, (x, y) = perceptron().double(), data()
    x = x.double()
    units = DOMAIN if over == "domains" else torch.arange(N) % 5
    g = []
    for unit in units.unique():
        model.zero_grad()
        F.cross_entropy(model(x[units == unit]), y[units == unit]).backward()
        g.append(model[0].weight.grad.numpy().copy())
    q = q_of(np.stack(g))
    dropout = held(model, ratio=0.3, over=over, micro_batches=5)
    dropout.update(x, losses_of(y), DOMAIN)
    kept = dropout.masks["0.weight"].numpy()
    assert (~kept).sum() == round(0.3 * q.size)
    assert q[~kept].min() >= q[kept].max() - 1e-12


def test_every_selection_drops_the_same_number():
    model, (x, y) = perceptron().double(), data()
    x = x.double()
    g = sample_gradients(model, x, y, "0.weight")
    q, size = q_of(g), np.abs(g.mean(0))
    for select, score in {
        "high-gsnr": q,
        "low-gsnr": -q,
        "high-gradient": size,
        "random": None,
    }.items():
        dropout = held(model, ratio=0.25, select=select)
        dropout.update(x, losses_of(y))
        kept = dropout.masks["0.weight"].numpy()
        assert (~kept).sum() == 15
        if score is not None:
            assert score[~kept].min() >= score[kept].max() - 1e-12
        dropout.remove()


def test_random_masks_follow_the_generator():
    model, (x, y) = perceptron(), data()
    masks = []
    for seed in (1, 1, 2):
        generator = torch.Generator().manual_seed(seed)
        dropout = held(model, ratio=0.5, select="random", generator=generator)
        dropout.update(x, losses_of(y))
        first = dropout.masks["0.weight"]
        dropout.update(x, losses_of(y))
        assert not torch.equal(first, dropout.masks["0.weight"])
        masks.append(first)
        dropout.remove()
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_forward_sees_zeros_and_their_gradient_is_zero():
    model, (x, y) = perceptron(), data()
    dropout = held(model, ratio=0.5)
    dropout.update(x, losses_of(y))
    masks = dropout.masks
    expected = F.linear(
        F.relu(F.linear(x, model[0].weight * masks["0.weight"], model[0].bias)),
        model[2].weight * masks["2.weight"],
        model[2].bias,
    )
    outputs = model(x)
    torch.testing.assert_close(outputs, expected)
    F.cross_entropy(outputs, y).backward()
    for name, parameter in model.named_parameters():
        if name in masks:
            assert (parameter.grad[~masks[name]] == 0).all()
            assert (parameter.grad[masks[name]] != 0).any()


def test_rescale_divides_what_is_kept():
    model, (x, y) = perceptron(), data()
    dropout = held(model, ratio=0.5, rescale=True)
    dropout.update(x, losses_of(y))
    first, second = (2 * model[i].weight * dropout.masks[f"{i}.weight"] for i in (0, 2))
    expected = F.linear(F.relu(F.linear(x, first, model[0].bias)), second, model[2].bias)
    torch.testing.assert_close(model(x), expected)


def test_evaluation_sees_the_whole_weights():
    model, (x, y) = perceptron(), data()
    whole = model.eval()(x)
    model.train()
    dropout = held(model, ratio=0.9)
    dropout.update(x, losses_of(y))
    assert not torch.allclose(model(x), whole)
    assert torch.equal(model.eval()(x), whole)


def trained(make, steps, ratio, optimiser):
    model = make()
    optimizer = optimiser(model.parameters())
    dropout = None if ratio is None else held(model, optimizer, ratio=ratio)
    torch.manual_seed(5)
    for step in range(steps):
        x, y = data(step)
        if dropout is not None:
            dropout.update(x, losses_of(y))
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.state_dict()


@pytest.mark.parametrize("make", [perceptron, network])
def test_a_ratio_of_zero_is_plain_training_to_the_bit(make):
    def adam(parameters):
        return torch.optim.AdamW(parameters, 1e-2)

    plain, dropped = (trained(make, 4, ratio, adam) for ratio in (None, 0.0))
    assert all(torch.equal(plain[name], dropped[name]) for name in plain)


def test_statistics_leave_no_trace_in_norms_and_random_numbers():
    """A ratio too small to drop anything still takes statistics."""

    def sgd(parameters):
        return torch.optim.SGD(parameters, 0.1)

    plain, dropped = (trained(network, 3, ratio, sgd) for ratio in (None, 1e-6))
    assert all(torch.equal(plain[name], dropped[name]) for name in plain)


OPTIMISERS = {
    "SGD": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
    "Adam": lambda p: torch.optim.Adam(p, 0.1, weight_decay=0.1),
    "fused Adam": lambda p: torch.optim.Adam(p, 0.1, weight_decay=0.1, fused=True),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.1, momentum=0.9, weight_decay=0.1),
    "NAdam": lambda p: torch.optim.NAdam(p, 0.1, weight_decay=0.1),
    "Adafactor": lambda p: torch.optim.Adafactor(p, 0.1, weight_decay=0.1),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_dropped_weight_does_not_move(name):
    model = perceptron()
    optimizer = OPTIMISERS[name](model.parameters())
    dropout = held(model, optimizer, ratio=0.4)
    for step in range(3):
        x, y = data(step)
        dropout.update(x, losses_of(y))
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        for n, parameter in model.named_parameters():
            moved = parameter.detach() != before[n]
            if n in dropout.masks:
                assert not moved[~dropout.masks[n]].any()
                assert moved[dropout.masks[n]].any()
            else:
                assert moved.any()


def test_a_mask_stays_until_the_next_refresh():
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    dropout = held(model, optimizer, ratio=0.5, refresh=3)
    seen = []
    for step in range(7):
        x, y = data(step)
        dropout.update(x, losses_of(y))
        seen.append(dropout.masks["0.weight"])
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = [not torch.equal(a, b) for a, b in pairwise(seen)]
    assert changed == [False, False, True, False, False, True]


@pytest.mark.parametrize("engine", ["single-pass", "streaming"])
def test_a_rule_on_top_agrees_on_the_masked_gradients(engine):
    model, (x, y) = perceptron().double(), data()
    x = x.double()
    dropout = held(model, ratio=0.4)
    dropout.update(x, losses_of(y))
    agree = dg.GradientAgreement(model, dg.SANDMask(), engine=engine)
    agree.backward(losses_of(y)(agree(x, DOMAIN)))
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    rows = []
    for e in range(K):
        model.zero_grad()
        F.cross_entropy(model(x[e == DOMAIN]), y[e == DOMAIN]).backward()
        rows.append([p.grad.clone() for p in model.parameters()])
    for (name, gradient), *domains in zip(found.items(), *rows, strict=True):
        torch.testing.assert_close(gradient, dg.SANDMask()(torch.stack(domains)))
        if name in dropout.masks:
            assert (gradient[~dropout.masks[name]] == 0).all()


def test_checkpoints_run_again_under_the_same_mask():
    model, (x, y) = perceptron(), data()
    dropout = held(model, ratio=0.5)
    dropout.update(x, losses_of(y))
    F.cross_entropy(model(x), y).backward()
    plain = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    F.cross_entropy(checkpoint(model, x, use_reentrant=False), y).backward()
    for gradient, parameter in zip(plain, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


def test_autocast():
    model, (x, y) = perceptron(), data()
    dropout = held(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        dropout.update(x, losses_of(y), DOMAIN)
        loss = F.cross_entropy(model(x), y)
    loss.backward()
    kept = dropout.masks["0.weight"]
    assert (~kept).sum() == round(dropout.ratios["0.weight"] * 60)
    assert (model[0].weight.grad[~kept] == 0).all()


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend = nn.MultiheadAttention(6, 2, batch_first=True)
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        x = x.unflatten(1, (1, 6)).repeat(1, 3, 1) * torch.arange(1, 4).view(1, 3, 1)
        return self.head(self.attend(x, x, x, need_weights=False)[0].mean(1))


def test_attention_is_masked_in_all_its_maps():
    torch.manual_seed(0)
    model, (x, y) = Attention(), data()
    dropout = held(model)
    dropout.update(x, losses_of(y), DOMAIN)
    assert dropout.masks.keys() == {
        "attend.in_proj_weight",
        "attend.out_proj.weight",
        "head.weight",
    }
    before = model(x)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in dropout.masks:
                parameter[~dropout.masks[name]] += 1
    assert torch.equal(model(x), before)


def test_a_shared_weight_has_one_mask():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 2))
    model[2].weight = model[0].weight
    x, y = data()
    dropout = held(model, ratio=0.5)
    dropout.update(x, losses_of(y))
    assert dropout.masks.keys() == {"0.weight", "3.weight"}
    assert (~dropout.masks["0.weight"]).sum() == 18
    before = model(x)
    with torch.no_grad():
        model[0].weight[~dropout.masks["0.weight"]] += 1
    assert torch.equal(model(x), before)


def test_layers_are_chosen_by_name_container_or_pattern():
    model = nn.ModuleDict({"body": perceptron(), "head": nn.Linear(2, 2)})
    for layers, names in {
        "head": {"head.weight"},
        "body": {"body.0.weight", "body.2.weight"},
        "body.*": {"body.0.weight", "body.2.weight"},
        ("head", "body.0"): {"head.weight", "body.0.weight"},
    }.items():
        dropout = dg.GSNRDropout(model, layers=layers)
        assert dropout.masks.keys() == names
        dropout.remove()


def test_removal_leaves_the_model_as_it_was():
    model, (x, y) = network(), data()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = {n: dict(vars(m)) for n, m in model.named_modules()}
    classes = [type(m) for m in model.modules()]
    keys = list(model.state_dict())
    dropout = held(model, optimizer)
    assert list(model.state_dict()) == keys
    dropout.update(x, losses_of(y), DOMAIN)
    dropout.remove()
    dropout.remove()
    assert [type(m) for m in model.modules()] == classes
    for name, module in model.named_modules():
        assert vars(module).keys() == before[name].keys()
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    with pytest.raises(RuntimeError, match="after remove"):
        dropout.update(x, losses_of(y), DOMAIN)


def run_on(model, optimizer, dropout, steps):
    for step in steps:
        x, y = data(step)
        dropout.update(x, losses_of(y), DOMAIN)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("options", [{}, {"scope": "model", "refresh": 2}, {"select": "random"}])
def test_a_checkpoint_goes_on_to_the_same_numbers(options):
    def fresh(seed):
        model = perceptron(seed)
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        return model, optimizer, held(model, optimizer, **options)

    whole = fresh(0)
    run_on(*whole, range(3))
    saved = pickle.loads(pickle.dumps([part.state_dict() for part in whole]))
    run_on(*whole, range(3, 6))
    resumed = fresh(1)
    for part, state in zip(resumed, saved, strict=True):
        part.load_state_dict(state)
    run_on(*resumed, range(3, 6))
    for a, b in zip(whole[0].parameters(), resumed[0].parameters(), strict=True):
        assert torch.equal(a, b)
    assert whole[2].ratios == resumed[2].ratios


@pytest.mark.parametrize("way", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_are_masked_by_themselves(way):
    model, (x, y) = perceptron(), data()
    dropout = held(model, ratio=0.5)
    dropout.update(x, losses_of(y))
    copied_model, copied = way((model, dropout))
    assert torch.equal(copied_model(x), model(x))
    copied.hold(torch.optim.SGD(copied_model.parameters(), 0.1))
    before = model(x)
    x1, y1 = data(1)
    copied.update(x1, losses_of(y1))
    assert torch.equal(model(x), before)
    assert not torch.equal(copied_model(x), before)
    copied.remove()
    assert type(copied_model[0]) is nn.Linear
    assert type(model[0]) is not nn.Linear


def test_weights_can_be_read_and_written_outside_the_forward_pass():
    model, (x, y) = perceptron(), data()
    dropout = held(model, ratio=0.5)
    dropout.update(x, losses_of(y))
    assert model[0].weight is next(model.parameters())
    with torch.no_grad():
        model[0].weight.clamp_(max=0)
    assert next(model.parameters()).max() == 0


def test_a_layer_called_by_itself_is_masked_too():
    model, (x, y) = perceptron(), data()
    dropout = held(model, ratio=0.5)
    dropout.update(x, losses_of(y))
    kept = dropout.masks["0.weight"]
    torch.testing.assert_close(model[0](x), F.linear(x, model[0].weight * kept, model[0].bias))


def test_a_forward_pass_that_fails_leaves_the_masks_right():
    model, (x, y) = perceptron(), data()
    dropout = held(model, ratio=0.5)
    dropout.update(x, losses_of(y))
    with pytest.raises(RuntimeError, match="shapes"):
        model(x[:, :2])
    assert isinstance(model[0].weight, nn.Parameter)


def test_it_trains_with_a_learned_ratio():
    """Every input tells the class, so that what is dropped can be made up for."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 2))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    dropout = held(model, optimizer)
    start = dict(dropout.ratios)
    for step in range(100):
        x, y = data(step, 48)
        x = x + y[:, None] - 0.5
        dropout.update(x, losses_of(y), torch.arange(48) % 3)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    x, y = data(99, 400)
    x = x + y[:, None] - 0.5
    assert (model.eval()(x).argmax(1) == y).float().mean() > 0.75
    assert all(p != start[name] and 0 < p < 0.9 for name, p in dropout.ratios.items())
    assert "learned" in repr(dropout)


@pytest.mark.parametrize("rescale", [False, True])
def test_masked_gradients(rescale):
    """The forward pass sees whole weights; the step is SGD's on what is kept of the gradient."""
    model, (x, y) = perceptron().double(), data()
    x = x.double()
    dropout = held(model, ratio=0.4, mask="gradients", rescale=rescale)
    whole, before = model(x), {n: p.detach().clone() for n, p in model.named_parameters()}
    dropout.update(x, losses_of(y))
    assert torch.equal(model(x), whole)
    assert type(model[0]) is nn.Linear
    F.cross_entropy(model(x), y).backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
    (optimizer,) = dropout._holding._optimizers
    optimizer.step()
    for name, parameter in model.named_parameters():
        kept = dropout.masks.get(name, torch.ones_like(parameter, dtype=torch.bool))
        scale = 1 / 0.6 if rescale and name in dropout.masks else 1.0
        expected = before[name] - 0.1 * scale * gradients[name] * kept
        torch.testing.assert_close(parameter.detach(), expected)
        assert name not in dropout.masks or 0 < kept.double().mean() < 1


def test_masked_gradients_leave_momentum_as_a_gradient_of_zero_does():
    model, (x, y) = perceptron(), data()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    dropout = held(model, optimizer, ratio=0.4, mask="gradients")
    dropout.update(x, losses_of(y))
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    for name, mask in dropout.masks.items():
        buffer = optimizer.state[dict(model.named_parameters())[name]]["momentum_buffer"]
        assert not buffer[~mask].any()
        assert buffer[mask].any()


@pytest.mark.parametrize("ratio", [0.3, "learned"])
def test_a_loss_scale_changes_nothing(ratio):
    found = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=1024.0)):
        model, (x, y) = perceptron().double(), data()
        dropout = held(model, ratio=ratio, scaler=scaler, generator=torch.Generator())
        for _ in range(3):
            dropout.update(x.double(), losses_of(y), DOMAIN)
        found.append((dropout.masks, dropout.ratios))
    (masks, ratios), (scaled, scaled_ratios) = found
    assert all(torch.equal(mask, scaled[name]) for name, mask in masks.items())
    assert scaled_ratios == pytest.approx(ratios, rel=1e-9)


def test_float16_underflows_without_the_loss_scale():
    """Gradients of 1e-8 are zero in float16: all rank alike, unless the losses are scaled."""
    chosen, (x, y) = [], data()

    def tiny(outputs):
        return 1e-8 * F.cross_entropy(outputs, y, reduction="none")

    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=2.0**20)):
        model = perceptron()
        dropout = held(model, ratio=0.3, scaler=scaler)
        with torch.autocast("cpu", torch.float16):
            dropout.update(x, tiny)
        chosen.append(dropout.masks["0.weight"].flatten())
    exact = perceptron()
    dropout = held(exact, ratio=0.3)
    dropout.update(x, losses_of(y))
    expected = dropout.masks["0.weight"].flatten()
    agreeing = [(own == expected).double().mean().item() for own in chosen]
    assert agreeing[0] < 0.9 < agreeing[1]


def test_where_scaled_gradients_leave_the_range_the_choice_stays():
    model, (x, y) = perceptron(), data()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    dropout = held(model, ratio=0.3, scaler=scaler)
    dropout.update(x, losses_of(y))
    before = dropout.masks
    bad = x.clone()
    bad[0] = float("inf")
    dropout.update(bad, losses_of(y))
    assert all(torch.equal(mask, before[name]) for name, mask in dropout.masks.items())


@pytest.mark.parametrize("options", [{"ratio": 0.3, "rescale": True}, {}])
def test_a_compiled_model_sees_every_new_mask(options):
    """Captured whole, and not captured anew for each mask."""
    captured = []

    def backend(graph, _):
        captured.append(graph)
        return graph.forward

    torch._dynamo.reset()
    model, (x, y) = perceptron(), data()
    plain = copy.deepcopy(model)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    ours, theirs = (
        dg.GSNRDropout(each, generator=torch.Generator(), **options) for each in (compiled, plain)
    )
    steps = []
    for dropout, called, network in ((ours, compiled, model), (theirs, plain, plain)):
        optimizer = dropout.hold(torch.optim.SGD(network.parameters(), 0.1))
        outputs = []
        for _ in range(5):
            dropout.update(x, losses_of(y), DOMAIN)
            optimizer.zero_grad()
            outputs.append(called(x))
            F.cross_entropy(outputs[-1], y).backward()
            optimizer.step()
        steps.append(torch.stack(outputs).detach())
    torch.testing.assert_close(*steps)
    assert list(ours.masks) == list(theirs.masks)
    # Once per look at the batch (the statistics and the virtual step are not compiled), and once
    # more where a learned ratio makes the scale a number that changes.
    assert len(captured) <= 2
