"""Masks on a model's weights, seen in its forward pass in training mode and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from .layers import Target

MASKS = "_dropout_masks"
"""Attribute of a masked module: its masks by the name of the weight."""


class Mask:
    """Which components of one weight take part; all of them while ``kept`` is ``None``."""

    def __init__(self) -> None:
        self.kept: Tensor | None = None
        self.scale = 1.0
        self.factors: Tensor | None = None
        """Stands in for ``kept`` and ``scale`` while the loss is differentiated by them."""

    def __call__(self, weight: Tensor) -> Tensor:
        """The weight with zeros where it is dropped, times the scale."""
        if self.factors is not None:
            return weight * self.factors
        if self.kept is None:
            return weight
        masked = torch.where(self.kept.to(weight.device), weight, 0.0)
        return masked if self.scale == 1.0 else masked * self.scale


class Masking:
    """The masks on the weights of one model.

    A masked module's class becomes a subclass with a property in the weight's place; the parameter
    itself stays where it was, and its name, ``state_dict``, optimisers and hooks know nothing of
    it. Hooks on the modules around it tell when a forward pass is under way: outside of one,
    ``module.weight`` is the parameter as ever.

    Args:
        model: the model.
        targets: its weights.

    Raises:
        ValueError: a weight has a mask already.
    """

    def __init__(self, model: nn.Module, targets: Sequence[Target]) -> None:
        self.masks = [Mask() for _ in targets]
        self._places = [place for target in targets for place in target.places]
        self._under_way: list[nn.Module] = []
        self._suspended = False
        if any(MASKS in vars(module) for module in model.modules()):
            raise ValueError(
                "weights of this model are already masked by another GSNRDropout (of this model, "
                "or of one that it was copied from); call its remove() first."
            )
        for target, mask in zip(targets, self.masks, strict=True):
            for place in target.places:
                masks = vars(place.module).setdefault(MASKS, {})
                masks[place.attribute] = (self, mask)
                _set_class(place.module, tuple(masks))
        masked = {place.module for place in self._places}
        self._around = [
            module for module in model.modules() if not masked.isdisjoint(module.modules())
        ]
        self._handles = []
        for module in self._around:
            self._handles += [
                module.register_forward_pre_hook(self._enter, prepend=True),
                module.register_forward_hook(self._leave, always_call=True),
            ]

    @property
    def in_force(self) -> bool:
        """Whether weights are seen through their masks now."""
        # A graph is captured of forward passes alone, and hooks are no part of it.
        under_way = torch.compiler.is_compiling() or bool(self._under_way)
        return under_way and not self._suspended

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Within the block, all weights are seen whole."""
        before, self._suspended = self._suspended, True
        try:
            yield
        finally:
            self._suspended = before

    def recover(self) -> None:
        """Between forward passes: forget those that were interrupted."""
        self._under_way.clear()

    def remove(self) -> None:
        """Leave the model as it was.

        Raises:
            RuntimeError: something else has changed a module's class since.
        """
        for place in self._places:
            if not hasattr(type(place.module), "_unmasked") or (
                "_unmasked" not in vars(type(place.module))
            ):
                raise RuntimeError(
                    f"the class of a masked layer has changed since GSNRDropout was made "
                    f"({type(place.module).__name__}; a parametrisation?), so its mask cannot be "
                    f"removed. Undo that change first."
                )
        for handle in self._handles:
            handle.remove()
        for place in self._places:
            masks = vars(place.module)[MASKS]
            del masks[place.attribute]
            _set_class(place.module, tuple(masks))
            if not masks:
                del vars(place.module)[MASKS]

    def _enter(self, module: nn.Module, *_: Any) -> None:
        if torch.compiler.is_compiling():
            return
        if module is self._around[0]:
            self._under_way.clear()  # what an interrupt has left behind
        self._under_way.append(module)

    def _leave(self, module: nn.Module, *_: Any) -> None:
        if torch.compiler.is_compiling():
            return
        # Another hook may have failed before ours, so that this module was never entered.
        if module in self._under_way:
            while self._under_way.pop() is not module:
                pass


def _set_class(module: nn.Module, attributes: tuple[str, ...]) -> None:
    base: Any = getattr(type(module), "_unmasked", type(module))
    module.__class__ = _masked(base, attributes) if attributes else base


@cache
def _masked(base: type[nn.Module], attributes: tuple[str, ...]) -> type[nn.Module]:
    """The subclass of a layer's class whose weights are seen through masks."""

    def reduce(self: nn.Module, _protocol: Any) -> tuple[Any, ...]:
        return _blank, (base, attributes), self.__getstate__()  # type: ignore[no-untyped-call]

    namespace: dict[str, Any] = {name: _property(name) for name in attributes}
    namespace |= {"_unmasked": base, "__reduce_ex__": reduce, "__module__": base.__module__}
    return type(f"Masked{base.__name__}", (base,), namespace)


def _blank(base: type[nn.Module], attributes: tuple[str, ...]) -> nn.Module:
    """An empty module for ``copy`` and ``pickle`` to fill."""
    kind = _masked(base, attributes)  # type: ignore[arg-type]
    return kind.__new__(kind)


def _property(name: str) -> property:
    def masked(module: nn.Module) -> Tensor | None:
        if name not in module._parameters:  # pruned or parametrised since
            if name not in vars(module):
                raise AttributeError(f"{type(module).__name__} has no attribute {name!r}")
            return cast(Tensor, vars(module)[name])
        weight = module._parameters[name]
        if weight is None or not module.training:
            return weight
        masking, mask = vars(module)[MASKS][name]
        return mask(weight) if masking.in_force else weight

    def replaced(module: nn.Module, value: Tensor | None) -> None:
        vars(module)[name] = value

    return property(masked, replaced)
