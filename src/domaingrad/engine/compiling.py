"""What a user wants of ``torch.compile``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch._functorch.config
from torch import nn

WITHOUT_COMPILER = ("eager", "aot_eager")
"""Backends that capture a model and compile nothing."""

Compile = bool | Mapping[str, Any]
"""Whether to compile, or the options of ``torch.compile``."""


def original(model: nn.Module) -> nn.Module:
    """The module within ``torch.compile(module)``."""
    inner = model._modules.get("_orig_mod")
    return model if inner is None else original(inner)


def inductor_options(model: nn.Module, asked: Compile) -> dict[str, Any] | None:
    """Options of Inductor; ``None`` where nothing is to be compiled.

    Args:
        model: perhaps compiled, as a whole or in parts; the outermost counts.
        asked: what takes precedence: options of ``torch.compile``, or whether to compile.

    Raises:
        TypeError, ValueError: options that ``torch.compile`` does not have, or another backend
            than Inductor.
    """
    if asked is not False:
        compiled = nn.Identity()
        compiled.compile(**({} if asked is True else asked))
        return _of(compiled)
    found = next((module for module in model.modules() if _is_compiled(module)), None)
    return None if found is None else _of(found)


def _is_compiled(module: nn.Module) -> bool:
    return module._compiled_call_impl is not None or "_orig_mod" in module._modules


def _of(compiled: nn.Module) -> dict[str, Any] | None:
    backend = _context(compiled).callback
    while hasattr(backend, "_torchdynamo_orig_backend"):
        backend = backend._torchdynamo_orig_backend
    found = getattr(backend, "config", None)
    if getattr(backend, "compiler_name", None) == "inductor" and isinstance(found, dict):
        if not hasattr(torch._functorch.config, "force_non_lazy_backward_lowering"):
            raise ValueError(
                f"compiled models need a newer PyTorch than {torch.__version__}, whose compiler "
                f"does not tell the backward pass in time. Leave compile out, and give the module "
                f"that is not compiled."
            )
        return dict(found)
    name = getattr(backend, "compiler_name", getattr(backend, "__name__", type(backend).__name__))
    if name in WITHOUT_COMPILER:
        return None
    raise ValueError(
        f"the model is compiled with backend {name!r}; the graph that tells domains apart goes "
        f"through 'inductor', or through none with {' or '.join(map(repr, WITHOUT_COMPILER))}. "
        f"Compile it with one of these."
    )


def _context(compiled: nn.Module) -> Any:
    """What Dynamo keeps of a call of ``torch.compile``."""
    context = getattr(compiled, "dynamo_ctx", None)
    if context is not None:
        return context
    cells = compiled._compiled_call_impl.get_compiler_config.__closure__  # type: ignore[union-attr]
    return cells[0].cell_contents
