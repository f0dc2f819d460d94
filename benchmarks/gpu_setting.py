"""What the parts of ``gpu.py`` share: where they run, and cells that errors become part of."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

WRONG = "**wrong**"
"""Stands in each line that tells of an error or of a value out of its bounds."""


@dataclass(frozen=True)
class Setting:
    """Where the parts run.

    Args:
        device: ``cuda``, or ``cpu`` to test the script itself.
        tiny: small models and few rounds, and nothing is compiled by Inductor.
    """

    device: str
    tiny: bool

    def compiled(self, model: nn.Module, mode: str | None = None) -> nn.Module:
        """By ``torch.compile``."""
        if self.tiny:
            return torch.compile(model, backend="aot_eager")
        return torch.compile(model, mode=mode)

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()


Part = Callable[[Setting], Iterator[str]]


def cell(run: Callable[[], str]) -> str:
    """What ``run`` gives; an error, too, is a cell, and the rest goes on."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            text = run()
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is reported
            text = f"{WRONG}: {said(error)}"
    own = (w for w in caught if w.category.__module__.startswith("domaingrad"))
    told = dict.fromkeys(f"{w.category.__name__}: {_plain(str(w.message))}" for w in own)
    return "; ".join([text, *told])


def said(error: Exception) -> str:
    """Type, first line, and the line of the library that it passed last."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "domaingrad" in frame.filename] or frames
    place = f" (at {own[-1].filename.rpartition('/')[2]}:{own[-1].lineno})" if own else ""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {_plain(first)}{place}"


def _plain(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")[:300]
