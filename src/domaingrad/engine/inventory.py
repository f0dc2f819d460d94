"""What a model is made of, listed once a step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter


class Inventory:
    """The modules, parameters and buffers of a model, as they are now.

    Args:
        model: the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.modules: list[nn.Module] = list(model.modules())
        parameters = {
            id(p): p
            for module in self.modules
            for p in module._parameters.values()
            if p is not None
        }
        self.trained: list[nn.Parameter] = [p for p in parameters.values() if p.requires_grad]
        self.frozen: list[nn.Parameter] = [p for p in parameters.values() if not p.requires_grad]
        buffers = {
            id(b): b for module in self.modules for b in module._buffers.values() if b is not None
        }
        self.buffers: list[Tensor] = list(buffers.values())

    @property
    def out_of_sight(self) -> str | None:
        """Why nothing can be said of the model before it runs, if so."""
        for module in self.modules:
            if getattr(module, "sparse", False):
                return f"{self.name_of(module)} has sparse gradients"
        if any(parameter._backward_hooks for parameter in self.trained):
            return "hooks on its parameters' gradients are to see each domain's"
        if any(isinstance(parameter, UninitializedParameter) for parameter in self.trained):
            return "its lazy parameters get their shape in the first forward pass"
        return None

    @cached_property
    def recurrent(self) -> bool:
        """Whether there are recurrent layers, which Dynamo captures only when told to."""
        return any(isinstance(module, nn.RNNBase) for module in self.modules)

    @property
    def training_batch_norms(self) -> list[nn.Module]:
        """The batch norms that look at the batch."""
        return [
            module
            for module in self.modules
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
        ]

    def name_of(self, wanted: nn.Module) -> str:
        """How a message speaks of a module."""
        for name, module in self.model.named_modules():
            if module is wanted:
                kind = type(module).__name__
                return f"module {name!r} ({kind})" if name else f"the model ({kind})"
        raise ValueError(f"expected a module of the model; found a {type(wanted).__name__}")


@contextmanager
def preserved(inventory: Inventory) -> Iterator[None]:
    """Leave buffers and ``.grad`` as they were, whatever is done to them, and call no hook."""
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in inventory.modules
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    gradients = [parameter.grad for parameter in inventory.trained]
    hooks = [(h, dict(h)) for p in inventory.trained if (h := p._post_accumulate_grad_hooks)]
    for parameter in inventory.trained:
        parameter.grad = None
    for waiting, _ in hooks:
        waiting.clear()
    try:
        yield
    finally:
        for waiting, before in hooks:
            waiting.update(before)
        for module, name, buffer, _ in buffers:
            module._buffers[name] = buffer
        if buffers:
            # By ``data``: a graph that was made before and reads a buffer still finds it unwritten.
            torch._foreach_copy_(
                [buffer.data for _, _, buffer, _ in buffers], [value for *_, value in buffers]
            )
        for parameter, gradient in zip(inventory.trained, gradients, strict=True):
            parameter.grad = gradient
