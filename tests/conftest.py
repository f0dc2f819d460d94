"""Lets torchvision be imported beside another build of PyTorch; lines for the summary's end."""

import importlib.util
from pathlib import Path

import pytest
import torch

SUMMARY = "summary"
"""A property of a test's report (``record_property``) that is printed at the end of the run."""

OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def _operators_for_torchvision() -> torch.library.Library | None:
    """Define what importing torchvision asks for; nothing if it is missing or brings it itself.

    A CUDA build beside a CPU PyTorch, as two package indexes give it, cannot load its extension,
    and then ``import torchvision`` fails. Its models need nothing of it.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return None
    for extension in Path(spec.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(extension)
        except OSError:
            continue
        return None
    library = torch.library.Library("torchvision", "DEF")
    for operator in OPERATORS:
        library.define(operator)
    return library


# Kept, since the operators go with it.
OPERATORS_FOR_TORCHVISION = _operators_for_torchvision()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests that passed have to say."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == SUMMARY:
                terminalreporter.write_line(value)
