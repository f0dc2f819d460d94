"""A CUDA device that is not there: tensors on ``cuda:0`` that lie in the host's memory.

``device.cpp`` registers for the dispatch key CUDA an allocator, a device guard, hooks, generators
and one kernel for all operators, which runs the CPU's kernel on the same memory. So tensors are
plain ``torch.Tensor`` of device ``cuda:0`` with real values, and whatever looks at devices
(autograd's threads, autocast, FakeTensor, Dynamo, AOTAutograd, optimizers) takes CUDA's way.

Imitated: errors where tensors of the host and of the device meet, or a generator of the wrong
device; launches of kernels; waits of the host for the device (``item``, blocking copies either way,
``nonzero``, masks as indices, ``equal``, ``unique``, …); pinned memory; random states of the
device's own; autocast and gradient scaling.

Not imitated: streams and events (all is done when a call returns), fused attention (its operators
are launched one by one), cuDNN's and cuBLAS's choices, the order of CUDA's sums and random numbers,
Triton and so Inductor, CUDA graphs, NCCL, memory statistics. A waiting copy is one from or to
memory that is not pinned, or without ``non_blocking``: for pageable memory CUDA leaves it open.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Observer = Callable[[str, str], None]

SOURCE = Path(__file__).with_name("device.cpp")
COMPILER = shutil.which(os.environ.get("CXX", "g++"))


def build(directory: Path) -> Path:
    """Compile ``device.cpp`` into ``directory``, unless it is there for this source and PyTorch."""
    assert COMPILER is not None, "pretended CUDA needs a C++ compiler, found none: install g++"
    torch = _torch()
    identity = [SOURCE.read_bytes(), (torch / "version.py").read_bytes(), COMPILER.encode()]
    name = hashlib.sha256(b"\0".join(identity)).hexdigest()[:16]
    library = directory / f"pretended_cuda_{name}.so"
    if not library.exists():
        made = library.with_suffix(f".{os.getpid()}")
        subprocess.run(
            [
                *(COMPILER, "-O1", "-shared", "-fPIC", "-std=c++20", str(SOURCE), "-o", str(made)),
                *(f"-I{torch / 'include'}", f"-L{torch / 'lib'}", "-lc10", "-ltorch_cpu"),
            ],
            check=True,
        )
        made.replace(library)
    return library


def install(library: Path) -> None:
    """Give this process the device; before ``import torch``, which looks for devices once."""
    assert "torch" not in sys.modules, "pretended CUDA must be installed before torch is imported"
    ctypes.CDLL(str(_torch() / "lib" / "libtorch_cpu.so"), ctypes.RTLD_GLOBAL)
    _installed.append(ctypes.CDLL(str(library)))
    import torch

    def exchange(device: int) -> int:
        return 0

    def maybe_exchange(device: int) -> int:
        return 0

    def choose(device: int) -> None:
        assert device in (0, -1), f"pretended CUDA has one device, 0; found {device}"

    def bf16(including_emulation: bool = True) -> bool:
        return True

    def synchronize(device: torch.types.Device = None) -> None:
        torch.accelerator.synchronize()

    def clone(storage: torch.UntypedStorage) -> torch.UntypedStorage:
        whole = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
        return whole.clone().untyped_storage()

    # What torch.cuda asks of its C++ half, which a CPU build lacks. Dynamo tells them by identity.
    torch._C._cuda_getDevice = lambda: 0
    torch._C._cuda_setDevice = choose
    torch.UntypedStorage.clone = clone
    torch.cuda._initialized = True
    torch.cuda.default_generators = (torch.ops.pretended_cuda.default_generator(),)
    torch.cuda.is_available = lambda: True
    torch.cuda.device_count = lambda: 1
    torch.cuda.is_bf16_supported = bf16
    torch.cuda.synchronize = synchronize
    torch.cuda._exchange_device = exchange
    torch.cuda._maybe_exchange_device = maybe_exchange


def is_installed() -> bool:
    """Whether this process has the device."""
    return bool(_installed)


def observe(observer: Observer | None) -> None:
    """Call ``observer(event, what)`` from now on, in whatever thread it happens; None ends it.

    Events are ``launch`` (a kernel), ``view`` (an operator without one) and ``sync`` (the host
    waits for the device); ``what`` is the operator, for a wait its cause.
    """
    assert is_installed(), "no pretended CUDA in this process: run python -m tests.pretended_cuda"
    function = _Callback() if observer is None else _Callback(_decoded(observer))
    _installed[0].pretended_cuda_observe(function)
    _kept[:] = [function]


_Callback = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p)
_installed: list[ctypes.CDLL] = []
_kept: list[Any] = []
"""The observer of the moment, which the library knows by its address alone."""


def _decoded(observer: Observer) -> Callable[[bytes, bytes], None]:
    return lambda event, what: observer(event.decode(), what.decode())


def _torch() -> Path:
    spec = importlib.util.find_spec("torch")
    assert spec is not None, "PyTorch is not installed"
    assert spec.origin is not None
    return Path(spec.origin).parent
