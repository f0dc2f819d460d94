"""Whole steps on a CUDA device that is not there: values, refusals, counts within the table."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from tests.conftest import SUMMARY

from .__main__ import ROOT
from .device import COMPILER
from .table import LOWER


@pytest.mark.skipif(COMPILER is None, reason="pretended CUDA is C++, and there is no compiler")
@pytest.mark.skipif(torch.version.cuda is not None, reason="this PyTorch has a CUDA of its own")
def test_on_device(record_property: Callable[[str, object], None]) -> None:
    """All of ``on_device/`` in one process, whose report is shown where something fails."""
    command = [sys.executable, "-m", "tests.pretended_cuda"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    for line in run.stdout.splitlines():
        if line.startswith(LOWER):
            record_property(SUMMARY, line)
