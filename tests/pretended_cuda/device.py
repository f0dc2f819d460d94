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
from pathlib import Path

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


def install(library: Path) -> ctypes.CDLL:
    """Give this process the device; before ``import torch``, which looks for devices once."""
    assert "torch" not in sys.modules, "pretended CUDA must be installed before torch is imported"
    ctypes.CDLL(str(_torch() / "lib" / "libtorch_cpu.so"), ctypes.RTLD_GLOBAL)
    device = ctypes.CDLL(str(library))
    import torch

    # What torch.cuda asks of its C++ half, which a CPU build lacks.
    torch._C._cuda_getDevice = lambda: 0  # type: ignore[attr-defined]
    torch._C._cuda_setDevice = lambda index: None  # type: ignore[attr-defined]
    torch.cuda._initialized = True
    torch.cuda.default_generators = (torch.ops.pretended_cuda.default_generator(),)
    torch.cuda.is_available = lambda: True
    torch.cuda.device_count = lambda: 1
    torch.cuda.is_bf16_supported = lambda including_emulation=True: True
    torch.cuda.synchronize = lambda device=None: torch.accelerator.synchronize()
    torch.cuda._exchange_device = lambda index: 0
    torch.cuda._maybe_exchange_device = lambda index: 0
    return device


def _torch() -> Path:
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent
