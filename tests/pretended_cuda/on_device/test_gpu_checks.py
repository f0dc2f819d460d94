"""The checks that ``benchmarks/gpu.py`` makes on a GPU find nothing wrong on the pretended one."""

import gpu_checks  # of benchmarks/
import pytest
from gpu_setting import WRONG, Part, Setting


# Of PyTorch itself, where Inductor is imported first.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("part", [gpu_checks.rules, gpu_checks.modes, gpu_checks.zoo])
def test_nothing_is_wrong(part: Part) -> None:
    lines = list(part(Setting("cuda", tiny=True)))
    assert len(lines) > 2
    found = [line for line in lines if WRONG in line and "built in" not in line]  # without NCCL
    assert not found, "\n".join(found)
