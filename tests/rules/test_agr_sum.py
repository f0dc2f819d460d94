import pytest
import torch

from domaingrad.rules import AgrSum
from tests.reference import rules as reference
from tests.reference.closeness import assert_close
from tests.reference.matrices import COUNTS, DTYPES, KINDS, rows, stacks


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", KINDS)
def test_equation(kind: str, count: int, dtype: torch.dtype) -> None:
    for stack in stacks(kind, count, dtype):
        # A sum is K times the mean.
        assert_close(AgrSum()(stack), reference.agr_sum(rows(stack)), stack, gain=count)


def test_a_zero_in_one_domain_is_disagreement() -> None:
    gradients = torch.tensor([[1.0, 1.0], [2.0, 0.0], [3.0, 1.0]])
    assert AgrSum()(gradients).tolist() == [6.0, 0.0]
