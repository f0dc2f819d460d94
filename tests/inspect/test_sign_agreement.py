"""``sign_agreement`` against a literal count in NumPy."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from domaingrad.inspect import sign_agreement

X = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0] * 3)
DOMAIN = torch.tensor([0, 1, 2] * 4)


def build() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def domain_loss(model: nn.Module, e: int) -> Tensor:
    return F.cross_entropy(model(X[e == DOMAIN]), Y[e == DOMAIN])


def literal(model: nn.Module, domains: int) -> float:
    """Count over the trainable components, zeros for what a domain does not use."""
    rows: list[NDArray[np.float64]] = []
    parameters = [p for p in model.parameters() if p.requires_grad]
    for e in range(domains):
        model.zero_grad()
        domain_loss(model, e).backward()
        rows.append(
            np.concatenate(
                [
                    np.zeros(p.numel()) if p.grad is None else p.grad.numpy().ravel()
                    for p in parameters
                ]
            )
        )
    model.zero_grad()
    return float((np.abs(np.sign(np.stack(rows)).sum(0)) == domains).mean())


@pytest.mark.parametrize("domains", [2, 3])
def test_the_share_of_components_with_one_sign(domains: int) -> None:
    model = build()
    expected = literal(model, domains)
    assert 0 < expected < 1
    assert sign_agreement(model, (domain_loss(model, e) for e in range(domains))) == expected


def test_a_list_of_losses_does_as_well_as_a_generator() -> None:
    model = build()
    losses = [domain_loss(model, e) for e in range(3)]
    assert sign_agreement(model, losses) == literal(model, 3)


def test_losses_of_one_forward_pass() -> None:
    """Their graphs share the model: ``losses[domain == e].mean()``."""
    model = build()
    losses = F.cross_entropy(model(X), Y, reduction="none")
    shared = sign_agreement(model, [losses[e == DOMAIN].mean() for e in range(3)])
    assert shared == literal(model, 3)


def test_a_zero_in_one_domain_is_disagreement() -> None:
    weight = nn.ParameterList([torch.zeros(4)])
    gradients = torch.tensor([[1.0, 1.0, -1.0, 0.0], [2.0, 0.0, -3.0, 0.0]])
    assert sign_agreement(weight, ((weight[0] * g).sum() for g in gradients)) == 0.5


def test_parameters_that_some_or_all_domains_do_not_use_disagree() -> None:
    model = nn.ModuleDict({name: nn.Linear(1, 1, bias=False) for name in ("all", "one", "none")})
    losses = [model["all"].weight.sum() + model["one"].weight.sum(), model["all"].weight.sum()]
    assert sign_agreement(model, losses) == 1 / 3


def test_frozen_parameters_do_not_count() -> None:
    model = build()
    model[0].requires_grad_(False)
    assert sign_agreement(model, [domain_loss(model, e) for e in range(3)]) == literal(model, 3)


def test_more_domains_than_int8_counts() -> None:
    weight = nn.ParameterList([torch.zeros(2)])
    factors = [torch.tensor([1.0, 1.0 if e else -1.0]) for e in range(300)]
    assert sign_agreement(weight, ((weight[0] * g).sum() for g in factors)) == 0.5


def test_random_signs_agree_by_chance_only() -> None:
    """2^(1−K) for K domains of random signs."""
    weight = nn.ParameterList([torch.zeros(100_000)])
    gradients = torch.randn(4, 100_000, generator=torch.Generator().manual_seed(0))
    share = sign_agreement(weight, ((weight[0] * g).sum() for g in gradients))
    # Five standard deviations of a binomial share.
    assert abs(share - 1 / 8) < 5 * math.sqrt(1 / 8 * 7 / 8 / 100_000)


def test_grad_is_left_alone() -> None:
    model = build()
    kept = torch.ones_like(model[0].weight)
    model[0].weight.grad = kept
    sign_agreement(model, (domain_loss(model, e) for e in range(2)))
    assert model[0].weight.grad is kept
    assert (kept == 1).all()
    assert model[0].bias.grad is None


@pytest.mark.parametrize("domains", [0, 1])
def test_fewer_than_two_domains(domains: int) -> None:
    model = build()
    with pytest.raises(ValueError, match=f"at least two domains; found {domains}"):
        sign_agreement(model, (domain_loss(model, e) for e in range(domains)))


def test_a_model_with_nothing_to_train() -> None:
    model = build()
    losses = [domain_loss(model, e) for e in range(2)]
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter that requires grad"):
        sign_agreement(model, losses)


def test_losses_that_are_no_scalars() -> None:
    model = build()
    losses = F.cross_entropy(model(X), Y, reduction="none")
    with pytest.raises(ValueError, match=r"scalar.*\[4\]"):
        sign_agreement(model, [losses[e == DOMAIN] for e in range(3)])


def test_losses_without_a_graph() -> None:
    model = build()
    with pytest.raises(ValueError, match=r"graph|grad"):
        sign_agreement(model, [domain_loss(model, e).detach() for e in range(2)])


def test_sparse_gradients() -> None:
    model = nn.Embedding(4, 1, sparse=True)
    losses = [model(torch.tensor([0, 1])).sum(), model(torch.tensor([0, 2])).sum()]
    with pytest.raises(TypeError, match=r"expected dense gradients.*sparse=False"):
        sign_agreement(model, losses)
