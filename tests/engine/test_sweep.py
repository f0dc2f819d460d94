"""Many models: exact in one pass over three batches that differ, or refused with a named reason."""

import os
import re
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import domaingrad as dg

from .problems import call, select
from .sweep import CASES, written
from .sweep.case import Case, deterministic, losses_of

BATCHES = ((2, 3, 4), (3, 2, 0, 2), (4, 2, 3))
"""Samples of each domain. The third batch is as long as the first, in another order."""

WEIGHTS = {0: 1.0, 1: 2.7, 2: 0.3, 3: 1.9}
"""So different that no domain's gradient can stand for another's."""

# Float64 sums in another order; a gradient that is truly zero is compared on the model's scale.
RTOL, FLOOR = 1e-9, 1e-4

ALL = os.environ.get("DOMAINGRAD_SWEEP") == "all"
CHOSEN = [name for name, case in CASES.items() if ALL or case.quick]


@pytest.fixture(autouse=True)
def without_captured_code() -> Iterator[None]:
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("name", CHOSEN)
def test_exact_or_refused(name: str) -> None:
    case = CASES[name]
    if case.package is not None:
        pytest.importorskip(case.package)
    refused = refusal(case)
    if case.refused is None:
        assert refused is None
    else:
        assert refused is not None
        assert re.search(case.refused, refused)


@pytest.mark.parametrize("name", ["divided by their number", "another way for many"])
def test_a_first_batch_of_one_domain_proves_nothing_of_several(name: str) -> None:
    assert refusal(CASES[name], ((9,), (2, 3, 4), (0, 8, 1))) is not None


def test_a_number_of_samples_that_no_domain_has_had_is_seen() -> None:
    # More than four samples in every domain at first, then as many in all, but two in one.
    refused = refusal(CASES["another way for many"], ((6, 6), (7, 6), (2, 10), (2, 11)))
    assert refused is not None
    assert "something else for 2 samples" in refused


@given(
    name=st.sampled_from(list(written.CASES)),
    batches=st.lists(
        st.lists(st.integers(0, 4), min_size=1, max_size=4).filter(lambda sizes: sum(sizes) > 3),
        min_size=2,
        max_size=3,
    ),
)
@settings(
    max_examples=200 if ALL else 4,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_no_batch_of_any_sizes_is_wrong(name: str, batches: list[list[int]]) -> None:
    # Norms in training mode refuse a single value a channel, whoever asks.
    sizes = tuple(tuple(n + (n == 1) for n in batch) for batch in batches)
    refused = refusal(CASES[name], sizes)
    torch._dynamo.reset()
    if CASES[name].refused is not None:
        assert refused is not None


def refusal(case: Case, batches: tuple[tuple[int, ...], ...] = BATCHES) -> str | None:
    """What the first refusal says; compares every batch that is not refused."""
    torch.manual_seed(0)
    model = deterministic(case.build())
    reference = deepcopy(model)
    agree = dg.GradientAgreement(model, dg.Mean(), engine="single-pass", weights=WEIGHTS)
    refused = None
    for which, sizes in enumerate(batches):
        generator = torch.Generator().manual_seed(which)
        domain = torch.repeat_interleave(torch.tensor(sizes))
        domain = domain[torch.randperm(len(domain), generator=generator)]
        torch.manual_seed(which)
        inputs = case.draw(len(domain), which)
        domain = domain[: rows_of(inputs)]
        model.load_state_dict(reference.state_dict(), strict=False)
        model.zero_grad()
        try:
            outputs = agree(inputs, domain)
        except dg.engine.AgreementError as error:
            refused = refused or str(error)
            continue
        agree.backward(losses_of(outputs, len(domain)))
        compare(model, separate(reference, inputs, domain))
    return refused


def rows_of(inputs: Any) -> int:
    return len(torch.utils._pytree.tree_leaves(inputs)[0])


def separate(model: nn.Module, inputs: Any, domain: Tensor) -> dict[str, Tensor | None]:
    """The weighted mean over domains of the gradients of one plain pass each."""
    named = dict(model.named_parameters())
    totals: dict[str, Tensor | None] = dict.fromkeys(named)
    labels = sorted(set(domain.tolist()))
    for label in labels:
        rows = domain == label
        model.zero_grad()
        losses_of(call(model, select(inputs, rows), {}), int(rows.sum())).mean().backward()
        for name, parameter in named.items():
            if parameter.grad is not None:
                own = parameter.grad * (WEIGHTS[label] / len(labels))
                before = totals[name]
                totals[name] = own if before is None else before + own
    return totals


def compare(model: nn.Module, expected: dict[str, Tensor | None]) -> None:
    """Gradients, and the buffers that the passes left."""
    largest = max(float(e.abs().max()) for e in expected.values() if e is not None and e.numel())
    assert largest > 0
    for name, parameter in model.named_parameters():
        other = expected[name]
        if other is None:
            assert parameter.grad is None, f"{name} is used by no domain"
            continue
        assert parameter.grad is not None, name
        scale = max(float(other.abs().max()), FLOOR * largest)
        distance = float((parameter.grad - other).abs().max()) / scale
        assert distance <= RTOL, f"{name} is off by {distance:.1e}"
