"""Streaming: the number of gradient-sized buffers does not grow with the number of domains."""

import gc
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor

import domaingrad as dg
from domaingrad.engine import Engine

SIZE = 10_007
"""A prime, so that only tensors of the parameter's shape are counted."""


@pytest.fixture(autouse=True)
def only_objects_of_this_test() -> Iterator[None]:
    """Frozen objects are not listed: counting takes milliseconds."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def gradient_sized_bytes() -> int:
    """Bytes of the live storages that hold at least one number a component."""
    gc.collect()
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in gc.get_objects()
        if issubclass(type(tensor), Tensor) and not isinstance(tensor, FakeTensor)
    }
    return sum(size for size in storages.values() if size >= SIZE)


def peak_between_blocks(rule: dg.rules.Rule, domains: int) -> int:
    model = nn.ParameterList([torch.zeros(SIZE)])
    agree = dg.GradientAgreement(model, rule)
    before, most = gradient_sized_bytes(), 0
    for e in range(domains):
        with agree.domain(e):
            (model[0] * (e - 2.5)).sum().backward()
        most = max(most, gradient_sized_bytes() - before)
    agree.combine()
    return most


@pytest.mark.parametrize(
    ("make", "bytes_per_component"),
    [
        (dg.Mean, 4),  # the sum
        (dg.ANDMask, 4 + 1),  # and int8 signs
        (dg.SANDMask, 4 + 4 + 1),  # and the squares
        (dg.AgrSum, 4 + 1),
        (dg.AgrRand, 4 + 1 + 1),  # and a count of the domains that are not zero
    ],
    ids=["mean", "and", "sand", "agr-sum", "agr-rand"],
)
def test_element_wise_rules_need_the_same_memory_for_4_and_12_domains(
    make: Callable[[], dg.rules.Rule], bytes_per_component: int
) -> None:
    four, twelve = peak_between_blocks(make(), 4), peak_between_blocks(make(), 12)
    assert four == twelve == bytes_per_component * SIZE


def test_gramian_rules_keep_a_gradient_a_domain() -> None:
    """The count above sees a buffer that grows."""
    assert peak_between_blocks(dg.PCGrad(), 12) == 3 * peak_between_blocks(dg.PCGrad(), 4)


@pytest.mark.parametrize("make", [dg.SANDMask, dg.PCGrad], ids=["sand", "pcgrad"])
def test_between_steps_nothing_but_grad_is_kept(make: Callable[[], dg.rules.Rule]) -> None:
    model = nn.ParameterList([torch.zeros(SIZE)])
    agree = dg.GradientAgreement(model, make())
    before = gradient_sized_bytes()
    for e in range(3):
        with agree.domain(e):
            (model[0] * (e - 2.5)).sum().backward()
    agree.combine()
    model[0].grad = None
    assert gradient_sized_bytes() == before


@pytest.mark.parametrize("engine", ["streaming", "single-pass"])
def test_after_backward_no_outputs_are_kept(engine: Engine) -> None:
    """The single pass keeps one working buffer, for the two gradients of the largest tensor."""
    model = nn.Linear(1, SIZE)
    agree = dg.GradientAgreement(model, dg.Mean(), engine=engine)
    before = gradient_sized_bytes()
    buffer = 2 * SIZE * 4 if engine == "single-pass" else 0
    for _ in range(3):
        inputs = torch.arange(4.0).unsqueeze(1)
        agree.backward(agree(inputs, torch.tensor([0, 1, 0, 1])).sum(1))
        model.zero_grad()
        assert gradient_sized_bytes() == before + buffer
