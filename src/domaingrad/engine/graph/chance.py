"""A model without its random draws, so that two passes of it can be compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode

from .operators import UnprovableError

aten = torch.ops.aten


class WithoutChance(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is entered, each draw is the same: dropout keeps all, noise has its own size.

    The state of the random generators is left alone.
    """

    supports_higher_order_operators = True

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Answer the operations that draw."""
        kwargs = dict(kwargs or {})
        if isinstance(func, HigherOrderOperator):
            return self._of_checkpoint(func, *args, **kwargs)
        if func.overloadpacket is aten.native_dropout_backward:
            return args[0] * args[1]
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        answer = ANSWERS.get(func.overloadpacket)
        if answer is not None:
            return answer(*args, **{k: v for k, v in kwargs.items() if k != "generator"})
        names = [argument.name for argument in func._schema.arguments]
        for name in {"dropout_p", "dropout"}.intersection(names):
            given = {**dict(zip(names, args, strict=False)), **kwargs, name: 0.0}
            return func(**given)
        raise UnprovableError(f"the model draws random numbers by {func}, which the check cannot")

    def _of_checkpoint(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """What a checkpoint draws, and draws again."""
        if func.name() == "run_and_save_rng_state":
            return torch.empty(0), self._drawn(*args, **kwargs)
        if func.name() == "run_with_rng_state":
            return self._drawn(*args[1:], **kwargs)
        return func(*args, **kwargs)

    def _drawn(self, draw: Any, *args: Any, **kwargs: Any) -> Any:
        with self:
            return draw(*args, **kwargs)


def _bernoulli(x: Tensor, p: float | None = None, **_: Any) -> Tensor:
    return x.clone() if p is None else torch.full_like(x, p)


def _bernoulli_(x: Tensor, p: float | Tensor = 0.5, **_: Any) -> Tensor:
    return x.copy_(p) if isinstance(p, Tensor) else x.fill_(p)


def _dropout(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return x.clone(), torch.ones_like(x, dtype=torch.bool)


def _filled(value: float) -> Callable[..., Tensor]:
    def like(x: Tensor, *_: Any, **kwargs: Any) -> Tensor:
        return torch.full_like(x, value, **_known(kwargs))

    return like


def _created(value: float) -> Callable[..., Tensor]:
    def create(size: Sequence[int], *_: Any, **kwargs: Any) -> Tensor:
        return aten.full(size, value, **kwargs)  # type: ignore[no-any-return]

    return create


def _known(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: kwargs[name] for name in ("dtype", "device") if name in kwargs}


ANSWERS: dict[Any, Callable[..., Any]] = {
    aten.bernoulli: _bernoulli,
    aten.bernoulli_: _bernoulli_,
    aten.native_dropout: _dropout,
    aten.uniform_: lambda x, low=0.0, high=1.0: x.fill_(low + 0.3 * (high - low)),
    aten.normal_: lambda x, mean=0.0, std=1.0: x.fill_(mean + std),
    aten.exponential_: lambda x, rate=1.0: x.fill_(1 / rate),
    aten.random_: lambda x, *_: x.fill_(0),
    aten.rand: _created(0.3),
    aten.randn: _created(1.0),
    aten.rand_like: _filled(0.3),
    aten.randn_like: _filled(1.0),
    # Not the identity, which would hide that samples are mixed.
    aten.randperm: lambda n, **kwargs: torch.arange(n, **_known(kwargs)).roll(1),
}
"""What stands in for a draw, by operation."""
