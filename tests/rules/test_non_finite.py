"""A gradient that is no number must stay visible: no mask may turn it into a quiet zero."""

from collections.abc import Callable

import pytest
import torch

from domaingrad.rules import Rule

from .variants import VARIANTS

# Component 0: all agree; 1: they disagree; 2: all but one are zero; 3: all are zero.
FINITE = (
    (1.0, 1.0, 0.0, 0.0),
    (2.0, -1.0, 0.0, 0.0),
    (3.0, -2.0, 1.0, 0.0),
    (4.0, 2.0, 0.0, 0.0),
    (5.0, 1.5, 0.0, 0.0),
)


@pytest.mark.parametrize("make", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("component", range(4))
@pytest.mark.parametrize("K", [2, 3, 5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
def test_stays_visible_at_its_component(
    make: Callable[[], Rule], value: float, component: int, K: int, dtype: torch.dtype
) -> None:
    for domain in range(K):
        stack = torch.tensor(FINITE[:K], dtype=dtype)
        stack[domain, component] = value
        assert not make()(stack)[component].isfinite()


@pytest.mark.parametrize("make", VARIANTS.values(), ids=VARIANTS)
def test_opposite_infinities_do_not_cancel(make: Callable[[], Rule]) -> None:
    stack = torch.tensor([[float("inf"), 1.0], [float("-inf"), 1.0]])
    assert not make()(stack)[0].isfinite()
