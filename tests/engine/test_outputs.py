"""What ``agree(x, domain)`` returns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import domaingrad as dg
from domaingrad.engine import Engine

from .problems import PROBLEMS, UNFIT, Named, Outputs, call
from .separate_passes import model_of

# Matrix products of few or many rows sum in another order.
RTOL = 1e-12

ROW_WISE = [
    name
    for name in PROBLEMS
    if name not in {"batch norm", "dropout", "attention", "checkpoint", "re-entrant checkpoint"}
]


@pytest.mark.parametrize("engine", ["streaming", "single-pass"])
@pytest.mark.parametrize("name", ROW_WISE)
def test_outputs_come_in_the_order_of_the_batch(name: str, engine: Engine) -> None:
    if engine == "single-pass" and name in UNFIT:
        pytest.skip("refused, see test_single_pass.py")
    problem = PROBLEMS[name]
    model = model_of(problem).eval()  # spectral norm would iterate once more
    expected = call(model, problem.inputs, problem.options)
    actual = dg.GradientAgreement(model, dg.Mean(), engine=engine)(
        problem.inputs, problem.domain, **problem.options
    )
    assert type(actual) is type(expected)
    compare(actual, expected)


def compare(actual: Any, expected: Any) -> None:
    if isinstance(expected, Tensor):
        assert actual.dtype == expected.dtype
        assert actual.requires_grad == expected.requires_grad
        torch.testing.assert_close(actual, expected, rtol=RTOL, atol=1e-14)
    elif isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for key, value in expected.items():
            compare(actual[key], value)
    elif isinstance(expected, tuple | list):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            compare(one, other)
    else:
        assert actual == expected


def agree_on(
    structure: Callable[[Tensor, Tensor], Any], engine: Engine = "auto"
) -> tuple[dg.GradientAgreement, Tensor]:
    torch.manual_seed(0)
    return dg.GradientAgreement(Outputs(structure), dg.Mean(), engine=engine), torch.randn(8, 6)


DOMAIN = torch.tensor([0, 1, 1, 0, 1, 0, 1, 1])


def test_named_tuples_keep_their_type() -> None:
    agree, x = agree_on(Named)
    assert isinstance(agree(x, DOMAIN), Named)


def test_without_gradients_the_outputs_have_no_graph() -> None:
    agree, x = agree_on(lambda logits, _: logits)
    with torch.no_grad():
        assert not agree(x, DOMAIN).requires_grad


def test_outputs_may_be_changed_in_place() -> None:
    agree, x = agree_on(lambda logits, _: logits)
    outputs = agree(x, DOMAIN)
    outputs.mul_(2.0)
    agree.backward(outputs.sum(1))
    # d(2·Σ logits)/d bias = 2 for each sample of each domain.
    assert torch.allclose(agree.model.head.bias.grad, torch.full((3,), 2.0))


def test_a_number_without_a_batch_dimension_is_refused() -> None:
    agree, x = agree_on(lambda logits, _: {"logits": logits, "aux": (logits.mean(),)})
    with pytest.raises(ValueError, match=r"\['aux'\]\[0\] is a single number.*agree\.domain"):
        agree(x, DOMAIN)


def test_a_reduced_batch_is_refused() -> None:
    agree, x = agree_on(lambda logits, _: logits.mean(0, keepdim=True))
    with pytest.raises(ValueError, match=r"one row per sample.*shape \[1, 3\].*agree\.domain"):
        agree(x, DOMAIN)


def test_sequence_first_outputs_are_refused() -> None:
    model = nn.LSTM(6, 4)
    with pytest.raises(ValueError, match="one row per sample"):
        dg.GradientAgreement(model, dg.Mean())(torch.randn(5, 8, 6), DOMAIN)


def test_another_structure_for_one_domain_is_refused() -> None:
    agree, x = agree_on(lambda logits, _: logits if len(logits) == 3 else (logits,))
    with pytest.raises(ValueError, match=r"structure for domain 1.*domain 0"):
        agree(x, DOMAIN)


def test_another_shape_for_one_domain_is_refused_in_our_words() -> None:
    """A model that pads to the longest sample of its batch, say."""
    agree, x = agree_on(lambda logits, _: logits[:, :, None].expand(-1, -1, len(logits)))
    with pytest.raises(ValueError, match=r"agree\.domain"):
        agree(x, DOMAIN)


def test_an_object_with_tensors_is_refused() -> None:
    """It would be returned for the first domain's samples only."""

    @dataclass
    class Bundle:
        logits: Tensor

    agree, x = agree_on(lambda logits, _: Bundle(logits))
    with pytest.raises(TypeError, match=r"output is a Bundle .*tuple or a dict") as raised:
        agree(x, DOMAIN)
    assert "tensor(" not in str(raised.value)


def test_a_cache_is_to_be_left_out() -> None:
    class DynamicCache:
        """As transformers' decoders return."""

    agree, x = agree_on(lambda logits, _: (logits, DynamicCache()))
    with pytest.raises(TypeError, match=r"output \[1\] is a DynamicCache.*use_cache=False"):
        agree(x, DOMAIN)


def test_numbers_that_differ_between_domains_are_refused() -> None:
    """One domain's number would stand for the whole batch."""
    agree, x = agree_on(lambda logits, _: (logits, logits.mean().item()))
    with pytest.raises((TypeError, ValueError), match=r"agree\.domain"):
        agree(x, DOMAIN)


def test_an_output_without_gradient_in_one_domain_counts_as_zero_there() -> None:
    """As in separate passes: an auxiliary head that runs on large batches only."""
    agree, x = agree_on(
        lambda logits, features: (
            logits,
            features.sum(1) if len(logits) == 5 else torch.zeros(len(logits)),
        ),
        engine="streaming",
    )
    logits, auxiliary = agree(x, DOMAIN)
    agree.backward(logits.sum(1) + auxiliary)
    assert torch.allclose(agree.model.head.bias.grad, torch.ones(3))
