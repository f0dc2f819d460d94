"""Many models: exact in one pass over three batches that differ, or refused with a named reason."""

import os
import re
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import domaingrad as dg

from .problems import call, select
from .sweep import CASES
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
