"""Errors of ``agree(x, domain)``: what was expected, what was found, what to do."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import domaingrad as dg

X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
DOMAIN = torch.tensor([0, 1, 0, 1, 0, 1])


class First(nn.Module):
    """Takes any structure and passes on its first tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor, *others: Any, **more: Any) -> Tensor:
        return self.layer(x)


@pytest.fixture
def agree() -> dg.GradientAgreement:
    return dg.GradientAgreement(First(), dg.Mean())


@pytest.mark.parametrize("length", [5, 7])
def test_a_domain_of_another_length(agree: dg.GradientAgreement, length: int) -> None:
    with pytest.raises(ValueError, match=rf"one row per sample, {length}.*shape \[6, 3\]"):
        agree(X, torch.zeros(length, dtype=torch.long))


@pytest.mark.parametrize(
    ("domain", "found"),
    [
        (DOMAIN.float(), r"shape \[6\] of torch\.float32"),
        (DOMAIN.double(), r"shape \[6\] of torch\.float64"),
        (DOMAIN.bool(), r"shape \[6\] of torch\.bool"),
        (DOMAIN.to(torch.complex64), "torch.complex64"),
        (DOMAIN[:, None], r"shape \[6, 1\] of torch\.int64"),
        (torch.tensor(0), r"shape \[\] of torch\.int64"),
        (torch.zeros(0, dtype=torch.long), r"shape \[0\]"),
        (DOMAIN.tolist(), "a list"),
        (DOMAIN.numpy(), "a ndarray"),
        ("photo", "a str"),
        (None, "a NoneType"),
    ],
    ids=[
        "float",
        "double",
        "bool",
        "complex",
        "2-d",
        "0-d",
        "empty",
        "list",
        "array",
        "name",
        "none",
    ],
)
def test_a_domain_that_is_no_vector_of_integers(
    agree: dg.GradientAgreement, domain: Any, found: str
) -> None:
    expected = rf"domain must be an integer tensor of shape \[N\].*found.*{found}"
    with pytest.raises((TypeError, ValueError), match=expected):
        agree(X, domain)


def test_an_empty_batch(agree: dg.GradientAgreement) -> None:
    with pytest.raises(ValueError, match=r"N ≥ 1.*found shape \[0\]"):
        agree(X[:0], DOMAIN[:0])


@pytest.mark.parametrize(
    "inputs",
    [
        (X, X[:4]),
        {"x": X, "mask": torch.zeros(5)},
        (X, {"deep": [X, X[:1]]}),
        (X, torch.tensor(2.0)),
    ],
    ids=["tuple", "dict", "nested", "0-d"],
)
def test_an_input_without_a_row_per_sample(agree: dg.GradientAgreement, inputs: Any) -> None:
    with pytest.raises(ValueError, match=r"one row per sample, 6.*found shape.*keyword"):
        agree(inputs, DOMAIN)


@pytest.mark.parametrize("as_tuple", [True, False])
def test_inputs_that_require_grad(agree: dg.GradientAgreement, as_tuple: bool) -> None:
    x = X.clone().requires_grad_()
    with pytest.raises(ValueError, match=r"require grad.*detach.*agree\.domain"):
        agree((x, X) if as_tuple else x, DOMAIN)


def test_inputs_that_require_grad_are_harmless_without_a_graph(agree: dg.GradientAgreement) -> None:
    with torch.no_grad():
        assert agree(X.clone().requires_grad_(), DOMAIN).shape == (6, 2)


def test_an_option_computed_with_a_graph() -> None:
    """All domains would share it: the second backward finds it freed, the first not."""

    class Scaled(First):
        def forward(self, x: Tensor, *, scale: Tensor) -> Tensor:
            return self.layer(x) * scale

    agree = dg.GradientAgreement(Scaled(), dg.Mean())
    log_scale = torch.zeros(2, requires_grad=True)
    with pytest.raises((ValueError, dg.AgreementError), match=r"scale|option|grad"):
        agree.backward(agree(X, DOMAIN, scale=log_scale.exp()).sum(1))


def test_a_batch_object_that_cannot_be_split() -> None:
    """Each domain would get the whole batch."""

    class Batch:
        def __init__(self, x: Tensor) -> None:
            self.x = x

    class OfBatch(First):
        def forward(self, batch: Batch) -> Tensor:
            return self.layer(batch.x)

    agree = dg.GradientAgreement(OfBatch(), dg.Mean())
    with pytest.raises((TypeError, ValueError), match="Batch"):
        agree(Batch(X), DOMAIN)


def test_a_list_goes_to_the_model_as_a_list() -> None:
    """Only tuples are unpacked."""

    class OfList(First):
        def forward(self, parts: list[Tensor]) -> Tensor:
            assert isinstance(parts, list)
            return self.layer(parts[0] + parts[1])

    agree = dg.GradientAgreement(OfList(), dg.Mean())
    assert torch.allclose(agree([X, X], DOMAIN), agree.model([X, X]))


@pytest.mark.parametrize("rule", [dg.ANDMask, dg.SANDMask, dg.AgrSum, dg.AgrRand, dg.PCGrad])
def test_a_single_domain_in_the_batch(rule: type[dg.rules.Rule]) -> None:
    agree = dg.GradientAgreement(First(), rule())
    outputs = agree(X, torch.full((6,), 42))
    with pytest.raises(ValueError, match=rf"{rule.__name__}.*at least 2.*found 1.*42.*Mean\(\)"):
        agree.backward(outputs.sum(1))
    with torch.no_grad():  # to evaluate on one domain is no mistake
        assert len(agree(X, torch.full((6,), 42))) == 6
    assert agree.model.layer.weight.grad is None


def test_a_single_domain_is_enough_for_the_mean(agree: dg.GradientAgreement) -> None:
    agree.backward(agree(X, torch.full((6,), 42)).sum(1))
    assert torch.allclose(agree.model.layer.bias.grad, torch.ones(2))


def test_an_error_of_the_model_is_the_models(agree: dg.GradientAgreement) -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        agree(torch.randn(6, 7), DOMAIN)
