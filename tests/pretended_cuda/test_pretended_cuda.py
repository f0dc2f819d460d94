"""Whole steps on a CUDA device that is not there: values, refusals, counts within the table."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from tests.conftest import SUMMARY

from .__main__ import ON_DEVICE, ROOT
from .device import COMPILER
from .table import LOWER

FILES = sorted(path.name for path in ON_DEVICE.glob("test_*.py"))


@pytest.mark.skipif(COMPILER is None, reason="pretended CUDA is C++, and there is no compiler")
@pytest.mark.skipif(torch.version.cuda is not None, reason="this PyTorch has a CUDA of its own")
@pytest.mark.parametrize("file", FILES)
def test_on_pretended_cuda(file: str, record_property: Callable[[str, object], None]) -> None:
    command = [sys.executable, "-m", "tests.pretended_cuda", str(ON_DEVICE / file)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    for line in run.stdout.splitlines():
        if line.startswith(LOWER):
            record_property(SUMMARY, line)
