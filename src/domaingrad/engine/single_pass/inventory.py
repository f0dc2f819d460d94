"""What a model is made of, listed once a step."""

from __future__ import annotations

from functools import cached_property

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
            if module._compiled_call_impl is not None or "_orig_mod" in module._modules:
                return f"{self.name_of(module)} is compiled, so its calls cannot be seen"
            if getattr(module, "sparse", False):
                return f"{self.name_of(module)} has sparse gradients"
        if any(parameter._backward_hooks for parameter in self.trained):
            return "hooks on its parameters' gradients are to see each domain's"
        if any(isinstance(parameter, UninitializedParameter) for parameter in self.trained):
            return "its lazy parameters get their shape in the first forward pass"
        return None

    @cached_property
    def batch_norms(self) -> dict[int, nn.modules.batchnorm._BatchNorm]:
        """The batch norms, by the identity of their running mean."""
        return {
            id(module.running_mean): module
            for module in self.modules
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
            and module.running_mean is not None
        }

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
