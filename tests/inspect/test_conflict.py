"""``conflict`` against separate backward passes in NumPy."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import domaingrad as dg
from domaingrad.inspect import ConflictWatch, conflict, sign_agreement

X = torch.randn(18, 1, 6, 6, generator=torch.Generator().manual_seed(0)).double()
Y = torch.tensor([0, 1, 2, 0, 2, 1] * 3)
DOMAIN = torch.tensor([7, 1, 4] * 6)
LABELS = (1, 4, 7)


class Recurrent(nn.Module):
    """A layer that the single pass does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(x.squeeze(1))
        return self.head(states[:, -1])


class Custom(torch.autograd.Function):
    """What cannot be seen through."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x * weight

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        return grad * weight, (grad * x).sum(0)


class Unseen(nn.Module):
    """Uses a parameter in a function of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 36))
        self.head = nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(Custom.apply(x.flatten(1), self.scale))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )


MODELS = {"convolutional": convolutional, "recurrent": Recurrent, "unseen": Unseen}


def losses(outputs: Tensor) -> Tensor:
    return F.cross_entropy(outputs, Y, reduction="none")


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name]().double()


def separate(model: nn.Module) -> dict[str, np.ndarray]:
    """[K, P] of each parameter, one forward and backward pass a domain."""
    rows = []
    for label in LABELS:
        model.zero_grad()
        mine = label == DOMAIN
        F.cross_entropy(model(X[mine]), Y[mine]).backward()
        rows.append({n: p.grad.numpy().ravel().copy() for n, p in model.named_parameters()})
    model.zero_grad()
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize("name", MODELS)
def test_cosines_and_agreement_are_those_of_separate_passes(name: str) -> None:
    model = made(name)
    rows = separate(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.SinglePassWarning)
        found = conflict(model, X, losses, DOMAIN)
    assert found.domains == LABELS
    flat = np.concatenate(list(rows.values()), axis=1)
    for i, j in itertools.product(range(3), repeat=2):
        expected = flat[i] @ flat[j] / (np.linalg.norm(flat[i]) * np.linalg.norm(flat[j]))
        assert found.cosines[i, j].item() == pytest.approx(expected, rel=1e-8)
    pairs = [found.cosines[i, j].item() for i, j in ((0, 1), (0, 2), (1, 2))]
    assert found.mean_cosine == pytest.approx(np.mean(pairs))
    bias_before_norm = name == "convolutional"  # its gradient is zero but for rounding
    tolerance = 4 / flat.shape[1] if bias_before_norm else 0
    agreement = (np.abs(np.sign(flat).sum(0)) == 3).mean()
    assert found.agreement == pytest.approx(agreement, abs=tolerance)
    for layer, relation in found.layers.items():
        own = [r for n, r in rows.items() if n.rpartition(".")[0] == layer or n == layer]
        stacked = np.concatenate(own, axis=1)
        assert relation.components == stacked.shape[1]
        np.testing.assert_allclose(relation.gram, stacked @ stacked.T, rtol=1e-8, atol=1e-12)
    assert sum(relation.components for relation in found.layers.values()) == found.components


def test_it_agrees_with_sign_agreement() -> None:
    model = made("recurrent")
    mean_losses = [
        F.cross_entropy(model(X[label == DOMAIN]), Y[label == DOMAIN]) for label in LABELS
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.SinglePassWarning)
        assert conflict(model, X, losses, DOMAIN).agreement == sign_agreement(model, mean_losses)


def test_nothing_of_the_model_or_of_chance_is_changed() -> None:
    model = nn.Sequential(convolutional().double(), nn.Dropout(0.5)).train()
    model[0][0].weight.grad = torch.ones_like(model[0][0].weight)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(4)
    state = torch.get_rng_state()
    conflict(model, X, losses, DOMAIN)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(model[0][0].weight.grad, torch.ones_like(model[0][0].weight))
    assert all(p.grad is None for n, p in model.named_parameters() if n != "0.0.weight")


def test_what_no_domain_uses_agrees_nowhere_and_is_counted() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = nn.Linear(36, 3).double()
            self.idle = nn.Linear(2, 2).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x.flatten(1))

    found = conflict(Idle(), X, losses, DOMAIN)
    assert found.layers["idle"].agreement == 0
    assert math.isnan(found.layers["idle"].mean_cosine)
    assert found.components == 36 * 3 + 3 + 6


def test_opposite_domains_have_cosine_minus_one() -> None:
    model = nn.Linear(2, 1, bias=False)
    x = torch.tensor([[1.0, 2.0], [-1.0, -2.0]])
    found = conflict(model, x, lambda out: out[:, 0], torch.tensor([0, 1]))
    assert found.mean_cosine == pytest.approx(-1)
    assert found.agreement == 0
    assert "-1.000" in found.table()


def test_a_watch_looks_every_so_often_and_does_not_change_training() -> None:
    def trained(watched: bool) -> tuple[nn.Module, ConflictWatch]:
        model = made("convolutional")
        watch = ConflictWatch(model, every=3)
        optimiser = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(7):
            if watched:
                watch(X, losses, DOMAIN)
            losses(model(X)).mean().backward()
            optimiser.step()
            optimiser.zero_grad()
        return model, watch

    (plain, _), (other, watch) = trained(False), trained(True)
    assert list(watch.found) == [1, 4, 7]
    for one, two in zip(plain.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(one, two)
    rows = watch.rows()
    assert len(rows) == 3 * (1 + 3)
    assert rows[0]["mean_cosine"] == watch.found[1].mean_cosine
    assert {row["layer"] for row in rows} == {"model", "0", "1", "4"}


def test_bad_input_is_told() -> None:
    model = made("convolutional")
    with pytest.raises(ValueError, match=r"at least two; found \[3\]"):
        conflict(model, X, losses, torch.full((18,), 3))
    with pytest.raises(TypeError, match="integer tensor"):
        conflict(model, X, losses, DOMAIN.double())
    with pytest.raises(ValueError, match="one loss a sample"):
        conflict(model, X, lambda out: losses(out).mean(), DOMAIN)
    with pytest.raises(ValueError, match="every must be at least 1; found 0"):
        ConflictWatch(model, every=0)
