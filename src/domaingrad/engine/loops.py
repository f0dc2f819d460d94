"""Functions of stacked gradients as one compiled loop, where a compiler is at hand."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from itertools import count
from types import FunctionType
from typing import Any
from warnings import warn

import torch
from torch import Tensor

from .errors import is_out_of_memory

COMPILE_FROM = 300_000
"""Components times units from which compiling is worth it: below, a step is shorter than what a
compiled call saves (measured: benchmarks/reduction.py)."""

MOST_UNROLLED = 64
"""Units up to which the loop is unrolled over them."""

_versions = count()


class Loop:
    """A function of gradients [K, n], compiled once for each K.

    Args:
        function: its first argument is the stack; K is a number to it.
        name: what it is called in the warning where it cannot be compiled.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self._function = function
        self._name = name
        self._by_count: dict[int, Callable[..., Any]] = {}
        self._failed = False

    def __call__(self, stack: Tensor, *others: Any, required: bool = False) -> Any:
        """The result; ``None``, with a warning, where the function cannot be compiled.

        Args:
            stack: the gradients.
            others: the function's other arguments.
            required: whether the compiler's error is to be raised instead.
        """
        if len(stack) not in self._by_count:
            self._by_count[len(stack)] = self._compiled()
        try:
            return self._by_count[len(stack)](stack, *others)
        except Exception as error:
            if required or is_out_of_memory(error):
                raise
            self._failed = True
            warn(
                f"torch.compile failed for {self._name} ({type(error).__name__}: "
                f"{str(error).splitlines()[0]}); going on with kernels='eager'.",
                RuntimeWarning,
                stacklevel=2,
            )
            return None

    def is_worth_it(self, stack: Tensor) -> bool:
        """Whether a stack is large enough, and there is a compiler."""
        large = stack.numel() >= COMPILE_FROM and len(stack) <= MOST_UNROLLED
        return large and not self._failed and compiler_found(stack.device)

    def _compiled(self) -> Callable[..., Any]:
        function = self._function

        def loop(stack: Tensor, *others: Any) -> Any:
            stack.unbind(0)  # So the compiler learns K as a number, and unrolls it.
            return function(stack, *others)

        # The compiler counts its versions by code object, and gives up after a few of them.
        code = loop.__code__.replace(co_name=f"{function.__name__}_{next(_versions)}")
        own = FunctionType(code, loop.__globals__, code.co_name, None, loop.__closure__)
        compiled: Callable[..., Any] = torch.compile(
            own,
            dynamic=True,
            fullgraph=True,
            options={"unroll_reductions_threshold": MOST_UNROLLED},
        )
        return compiled


def compiler_found(device: torch.device) -> bool:
    """Whether ``torch.compile`` can be expected to work for a device."""
    return _compiler_found(device.type)


@cache
def _compiler_found(device_type: str) -> bool:
    if device_type == "cpu":
        return any(shutil.which(name) for name in ("c++", "g++", "clang++"))
    return find_spec("triton") is not None
