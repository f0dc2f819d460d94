"""What the domains' gradients and the update are multiplied by: weights and the loss scale."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from numbers import Real

import torch
from torch import Tensor

from domaingrad.rules.transfer import to_device


def plain(name: Hashable) -> Hashable:
    """A domain's name; of a tensor, its number."""
    return name.item() if isinstance(name, Tensor) else name


def positive(weights: Mapping[Hashable, float] | None) -> dict[Hashable, float]:
    """Weights of domains by name.

    Raises:
        ValueError: one is not positive and finite.
    """
    for name, weight in (weights or {}).items():
        if not isinstance(weight, Real) or not 0.0 < weight < float("inf"):
            raise ValueError(
                f"the weight of a domain must be positive and finite; found {weight!r} for "
                f"{name!r}. Leave a domain out of the batch to silence it."
            )
    return {plain(name): float(weight) for name, weight in (weights or {}).items()}


def loss_scale(scaler: torch.amp.GradScaler | None, device: torch.device) -> Tensor | None:
    """The scale in use, one number on the device; ``None`` without one. Nothing waits for it."""
    if scaler is None or not scaler.is_enabled():
        return None
    return scaler.scale(torch.ones((), device=device))


def factors(
    labels: Sequence[int],
    weights: Mapping[Hashable, float],
    scale: Tensor | None,
    device: torch.device,
) -> Tensor | None:
    """On the gradients of each domain, [K]: its weight over the loss scale; ``None`` for ones.

    Args:
        labels: of the domains.
        weights: by label; 1 for those not named.
        scale: of the losses.
        device: where the gradients are.
    """
    own = [weights.get(label, 1.0) for label in labels]
    if all(weight == 1.0 for weight in own):
        return None if scale is None else scale.double().reciprocal().expand(len(own))
    found = to_device(torch.tensor(own, dtype=torch.float64), device)
    return found if scale is None else found / scale
