import pytest
import torch

from domaingrad.rules import Mean
from tests.reference import rules as reference
from tests.reference.closeness import assert_close
from tests.reference.matrices import COUNTS, DTYPES, KINDS, rows, stacks


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [1, *COUNTS])
@pytest.mark.parametrize("kind", KINDS)
def test_equation(kind: str, count: int, dtype: torch.dtype) -> None:
    for stack in stacks(kind, count, dtype):
        assert_close(Mean()(stack), reference.mean(rows(stack)), stack)
