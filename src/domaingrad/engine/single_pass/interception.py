"""Sees each call of PyTorch during a forward pass and takes over those that use parameters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .inventory import Inventory


@dataclass(frozen=True, slots=True)
class Kind:
    """What a tensor depends on, apart from samples: a constant, or parameters alone."""

    owner: object
    origins: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Site:
    """A call that uses parameters: what is called, with which parameters, for which time."""

    function: str
    origins: frozenset[int]
    occurrence: int


@dataclass(slots=True)
class Call:
    """One call with its tensors told apart.

    ``tensors`` are those among the arguments, in order; ``kinds`` stands beside them, ``None`` for
    samples.
    """

    site: Site
    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    tensors: Sequence[Tensor]
    kinds: Sequence[Kind | None]

    def native(self) -> Any:
        """The call itself."""
        return self.function(*self.args, **self.kwargs)

    def with_tensors(self, tensors: Sequence[Tensor]) -> Any:
        """The call with other tensors in the place of its own."""
        args, kwargs = _replaced((tuple(self.args), dict(self.kwargs)), iter(tensors))
        return self.function(*args, **kwargs)


NO_OVERRIDES: dict[str, Callable[..., bool]] = {
    name: lambda *_: False
    for name in ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
}
MIXING = {
    torch.nn.functional.batch_norm,
    torch.batch_norm,
    torch.nn.functional.instance_norm,
    torch.instance_norm,
}
"""Calls that may look across samples, or keep statistics of them, without any parameter."""


class Interception(TorchFunctionMode):
    """While it is entered, tells tensors apart and hands calls that mix them to :meth:`take`.

    A tensor is *shared* if it is a parameter or computed from parameters and constants alone,
    *constant* if computed from neither parameters nor samples, and else holds *samples*. Only
    shared and constant tensors are marked. A call with shared tensors and samples is taken; a
    function that is written in Python is opened, so that its inner calls are seen.

    Args:
        inventory: the model's parameters, and its buffers, which are constants.
    """

    def __init__(self, inventory: Inventory) -> None:
        super().__init__()
        self._owner = object()
        self.ways: set[tuple[str, str]] = set()
        """Which function of PyTorch was called after which."""
        self._last = ""
        self._constant = Kind(self._owner)
        self._fixed: dict[int, Kind] = {
            id(tensor): self._constant for tensor in (*inventory.buffers, *inventory.frozen)
        }
        self._fixed |= {
            id(parameter): Kind(self._owner, frozenset({index}))
            for index, parameter in enumerate(inventory.trained)
        }
        self._occurrences: Counter[tuple[str, frozenset[int]]] = Counter()
        self._open: list[Callable[..., Any]] = []

    def take(self, call: Call) -> Any:
        """Answer a call that has shared tensors and samples, or that may look across samples."""
        raise NotImplementedError

    def passive(self) -> bool:
        """Whether calls are let through unseen."""
        return False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Let through, open or take one call."""
        kwargs = kwargs or {}
        if self.passive():
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name == "__get__":
            return self._attribute(func, args[0])
        self.ways.add((self._last, name))
        self._last = name
        if func is torch.autograd.backward:
            return self._opened(func, args, kwargs)  # Checkpoints run on the way back.
        tensors = _tensors(args, kwargs)
        kinds = [self.kind(tensor) for tensor in tensors]
        origins = _origins(kinds)
        if None in kinds:
            self._forget_if_written(func, args)
            if not origins and func not in MIXING:
                return func(*args, **kwargs)
            return self._answer(func, args, kwargs, tensors, kinds, origins)
        result = func(*args, **kwargs)
        self.mark((result, args[0]) if writes(func) else result, origins)
        return result

    def _attribute(self, func: Callable[..., Any], tensor: Tensor) -> Any:
        """An attribute, of which some (``.T``, ``.real``) are tensors of the same kind."""
        result = func(tensor)
        if isinstance(result, Tensor) and (kind := self.kind(tensor)) is not None:
            self.mark(result, kind.origins)
        return result

    def _forget_if_written(self, func: Callable[..., Any], args: Sequence[Any]) -> None:
        """A tensor into which samples are written holds samples."""
        if writes(func) and isinstance(args[0], Tensor) and id(args[0]) not in self._fixed:
            args[0].__dict__.pop("_domaingrad_kind", None)

    def kind(self, tensor: Tensor) -> Kind | None:
        """What a tensor is, if it holds no samples."""
        fixed = self._fixed.get(id(tensor))
        if fixed is not None:
            return fixed
        kind = getattr(tensor, "_domaingrad_kind", None)
        return kind if kind is not None and kind.owner is self._owner else None

    def _answer(
        self,
        func: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        tensors: Sequence[Tensor],
        kinds: Sequence[Kind | None],
        origins: frozenset[int],
    ) -> Any:
        if isinstance(func, FunctionType) and func not in MIXING and func not in self._open:  # type: ignore[comparison-overlap]
            return self._opened(func, args, kwargs)
        name = func.__name__
        self._occurrences[name, origins] += 1
        site = Site(name, origins, self._occurrences[name, origins])
        return self.take(Call(site, func, args, kwargs, tensors, kinds))

    def _opened(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        self._open.append(func)
        try:
            with self:
                return _body(func)(*args, **kwargs)
        finally:
            self._open.pop()

    def mark(self, result: Any, origins: frozenset[int]) -> None:
        """Write on the results of a call without samples what they are."""
        for tensor in _tensors((result,), {}):
            if id(tensor) not in self._fixed:
                trained = origins and tensor.requires_grad
                tensor._domaingrad_kind = (  # type: ignore[attr-defined]
                    Kind(self._owner, origins) if trained else self._constant
                )


def writes(func: Callable[..., Any]) -> bool:
    """Whether a call writes into its first argument."""
    name = getattr(func, "__name__", "")
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))


def _tensors(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The tensors among arguments, those in lists and dictionaries too."""
    found: list[Tensor] = []
    for value in args:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found += _tensors(value, {})
        elif isinstance(value, dict):
            found += _tensors((), value)
    return found + _tensors(tuple(kwargs.values()), {}) if kwargs else found


def _replaced(value: Any, tensors: Iterator[Tensor]) -> Any:
    """A structure of arguments with other tensors, taken in the order of :func:`_tensors`."""
    if isinstance(value, Tensor):
        return next(tensors)
    if isinstance(value, (tuple, list)):
        parts = [_replaced(part, tensors) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, dict):
        return {name: _replaced(part, tensors) for name, part in value.items()}
    return value


def _origins(kinds: Sequence[Kind | None]) -> frozenset[int]:
    """The parameters behind shared tensors."""
    found = [kind.origins for kind in kinds if kind is not None and kind.origins]
    return found[0] if len(found) == 1 else frozenset().union(*found)


@cache
def _body(func: Callable[..., Any]) -> Callable[..., Any]:
    """A function of PyTorch without its own test for overrides, so that it runs under ours."""
    if hasattr(func, "__wrapped__"):
        return func.__wrapped__  # type: ignore[no-any-return]
    assert isinstance(func, FunctionType)
    opened = FunctionType(
        func.__code__,
        {**func.__globals__, **NO_OVERRIDES},
        func.__name__,
        func.__defaults__,
        func.__closure__,
    )
    opened.__kwdefaults__ = func.__kwdefaults__
    return opened
