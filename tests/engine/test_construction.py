"""What ``GradientAgreement(...)`` accepts."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import domaingrad as dg


@pytest.fixture
def model() -> nn.Module:
    return nn.Linear(2, 2)


@pytest.mark.parametrize("engine", ["auto", "streaming"])
def test_engines_of_this_version(model: nn.Module, engine: Any) -> None:
    agree = dg.GradientAgreement(model, dg.Mean(), engine=engine)
    agree.backward(agree(torch.ones(2, 2), torch.tensor([0, 1])).sum(1))
    assert torch.equal(model.weight.grad, torch.ones(2, 2))


def test_an_unknown_engine(model: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"one of 'auto', 'single-pass', 'streaming'.*'stream'"):
        dg.GradientAgreement(model, dg.Mean(), engine="stream")  # type: ignore[arg-type]


@pytest.mark.parametrize("model", [nn.ReLU(), nn.Linear(2, 2).requires_grad_(False)])
def test_a_model_with_nothing_to_train(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="no parameter that requires grad"):
        dg.GradientAgreement(model, dg.Mean())


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_is_not_positive(model: nn.Module, weight: float) -> None:
    with pytest.raises(ValueError, match=rf"positive and finite; found {weight}.*'sketch'"):
        dg.GradientAgreement(model, dg.Mean(), weights={"photo": 1.0, "sketch": weight})


def as_models() -> list[Any]:
    model = nn.Linear(2, 2)
    return [torch.optim.SGD(model.parameters(), 0.1), list(model.parameters()), model.forward]


@pytest.mark.parametrize("thing", as_models(), ids=["optimizer", "parameters", "function"])
def test_something_that_is_no_module(thing: Any) -> None:
    with pytest.raises(TypeError, match=f"Module.*{type(thing).__name__}"):
        dg.GradientAgreement(thing, dg.Mean())


def first_step(model: nn.Module, rule: Any) -> None:
    agree = dg.GradientAgreement(model, rule)
    agree.backward(agree(torch.ones(2, 2), torch.tensor([0, 1])).sum(1))


class NoFamily(dg.rules.Rule):
    def _aggregate(self, gradients: Tensor) -> Tensor:
        return gradients[0]


@pytest.mark.parametrize(
    ("rule", "found"),
    [
        (NoFamily(), "NoFamily"),
        (dg.ANDMask, "ANDMask"),
        (lambda gradients: gradients.mean(0), "function"),
        ("and", "str"),
    ],
    ids=["no family", "class", "function", "name"],
)
def test_something_that_is_no_rule(model: nn.Module, rule: Any, found: str) -> None:
    """At the latest in the first step, and in our words."""
    with pytest.raises(TypeError, match=f"rule.*{found}"):
        first_step(model, rule)


def test_a_rule_of_ones_own(model: nn.Module) -> None:
    class Median(dg.rules.authoring.ElementwiseRule):
        """Sign of the majority, for want of a median."""

        statistics = frozenset({"sign_sum"})

        def propose(self, statistics: dg.rules.authoring.Statistics) -> dg.rules.authoring.Proposal:
            return dg.rules.authoring.Proposal(statistics.sign_sum.sign().to(statistics.mean.dtype))

    agree = dg.GradientAgreement(model, Median())
    for name, size in enumerate((1.0, -5.0, 2.0)):
        with agree.domain(name):
            (model.bias * size).sum().backward()
    agree.combine()
    assert model.bias.grad.tolist() == [1.0, 1.0]


def test_importing_the_package_loads_nothing_of_several_processes():
    """PyTorch's tensors that are spread over processes take a second to import."""
    code = "import sys, domaingrad; print('torch.distributed.tensor' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
