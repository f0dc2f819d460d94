"""Where an update goes, and what is said of gradients that are not finite."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from warnings import warn

import torch
from torch import Tensor, nn

from domaingrad.rules.transfer import to_host

from .errors import NonFiniteGradientWarning


def write(parameter: nn.Parameter, update: Tensor, hooks: bool = True) -> None:
    """Add to ``.grad``, as autograd would.

    Args:
        parameter: the parameter.
        update: of its shape.
        hooks: whether to call those that wait for a gradient to be accumulated.
    """
    update = update.to(parameter.dtype)
    if parameter.grad is not None:
        parameter.grad.add_(update)
    elif update.stride() == parameter.stride():
        parameter.grad = update
    else:
        # As autograd lays a gradient out: like its parameter (channels_last).
        parameter.grad = torch.empty_like(parameter, requires_grad=False).copy_(update)
    waiting = parameter._post_accumulate_grad_hooks if hooks else None
    for hook in list(waiting.values()) if waiting else ():
        hook(parameter)


@dataclass
class _Seen:
    """What a step saw, on its way to the host."""

    names: Sequence[Hashable]
    finite: Tensor
    event: torch.Event | None


class NonFinite:
    """Names domains with non-finite gradients: at once on a CPU, elsewhere without waiting.

    What a device found is copied to the host beside the work that follows, and named when it has
    arrived: in a later step, or by :meth:`check`.
    """

    def __init__(self) -> None:
        self._seen: list[_Seen] = []

    def note(self, names: Sequence[Hashable], finite: Tensor | None) -> None:
        """Take in whose gradients were finite in a step, [K]."""
        if finite is None:
            return
        self._seen.append(_Seen(list(names), *to_host(finite)))

    def check(self, wait: bool = False) -> None:
        """Warn of what has arrived, or wait for all of it."""
        while self._seen:
            seen = self._seen[0]
            if seen.event is not None:
                if wait:
                    seen.event.synchronize()
                elif not seen.event.query():
                    return
            self._seen.pop(0)
            named = [n for n, ok in zip(seen.names, seen.finite.tolist(), strict=True) if not ok]
            if named:
                warn(
                    f"non-finite gradient in domain {', '.join(map(repr, named))}; it is left "
                    f"visible in .grad. Skip the step, clip, or lower the learning rate.",
                    NonFiniteGradientWarning,
                    stacklevel=_users_level(),
                )


PACKAGE = str(Path(__file__).parents[1])


def _users_level() -> int:
    """Frames from the caller of this to the line of the user that brought it here."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        level, frame = level + 1, frame.f_back
    return level
