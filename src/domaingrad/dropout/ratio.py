"""The share that is dropped, learned from the slope of a meta-test loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .ranking import Ranking, sums_of_bins


@dataclass(frozen=True)
class LearnedRatio:
    """How the dropped share p of each weight is learned; our reading of the method.

    p = ``largest`` · σ(φ), and φ follows the gradient of the meta-test loss by Adam (ours: the size
    of that gradient means little, since it grows with ``virtual_rate`` and the model's slopes).

    Args:
        start: p at the start, in (0, ``largest``).
        largest: the most that can be dropped, below 1.
        rate: Adam's learning rate for φ; a step changes φ by about as much.
        virtual_rate: α, the learning rate of the virtual step.
        temperature: T of the soft mask, in shares of the ranking: components within a few T of
            the threshold tell whether p should move.

    Raises:
        ValueError: numbers outside these bounds.
    """

    start: float = 1 / 3
    largest: float = 0.9
    rate: float = 0.02
    virtual_rate: float = 0.1
    temperature: float = 0.05

    def __post_init__(self) -> None:
        if not 0.0 < self.start < self.largest < 1.0:
            raise ValueError(
                f"LearnedRatio needs 0 < start < largest < 1; found start {self.start:g}, largest "
                f"{self.largest:g}."
            )
        for name in ("rate", "virtual_rate", "temperature"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ValueError(
                    f"LearnedRatio needs a finite {name} > 0; found {getattr(self, name):g}."
                )


class Ratios:
    """The learned ratios of several weights, or one for all.

    Args:
        settings: how they are learned.
        count: number of ratios.
    """

    def __init__(self, settings: LearnedRatio, count: int) -> None:
        self.settings = settings
        start = settings.start / settings.largest
        self._phi = torch.full((count,), start, dtype=torch.float64).logit().requires_grad_()
        self._adam = torch.optim.Adam([self._phi], settings.rate)

    def __len__(self) -> int:
        return len(self._phi)

    def values(self) -> list[float]:
        """P of each."""
        return self._p().tolist()

    def move(self, slopes: Tensor) -> None:
        """One step of φ against the slopes of the meta-test loss with respect to p."""
        with torch.enable_grad():
            (self._phi.grad,) = torch.autograd.grad(self._p(), self._phi, slopes.to(self._phi))
        self._adam.step()

    def _p(self) -> Tensor:
        return self.settings.largest * self._phi.sigmoid()

    def state_dict(self) -> dict[str, Any]:
        """φ and Adam's state."""
        return {"phi": self._phi.detach().clone(), "adam": deepcopy(self._adam.state_dict())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        with torch.no_grad():
            self._phi.copy_(state["phi"])
        self._adam.load_state_dict(deepcopy(state["adam"]))


def slope_of_ratio(
    slopes: Tensor,
    kept: Tensor,
    ranking: Ranking,
    ratio: float,
    temperature: float,
    rescale: bool,
) -> Tensor:
    """Σ_j ∂L/∂M_j · ∂M_j/∂p, straight through the hard mask; float64.

    The soft mask is M̃ = σ(((1 − p) − u)/T), so ∂M̃/∂p = −M̃ (1 − M̃)/T. With ``rescale`` the mask
    is M/(1 − p), so its derivative is (∂M̃/∂p)/(1 − p) + M/(1 − p)².

    Args:
        slopes: ∂L/∂M.
        kept: the hard mask M.
        ranking: the components' ranks u.
        ratio: p.
        temperature: T.
        rescale: whether what is kept is divided by 1 − p.
    """
    soft = ((1.0 - ratio - ranking.ranks) / temperature).sigmoid()
    by_ratio = soft * (soft - 1.0) / temperature
    total = (sums_of_bins(ranking.bins, slopes, len(by_ratio)) * by_ratio).sum()
    if rescale:
        total = total / (1.0 - ratio) + (slopes * kept).sum() / (1.0 - ratio) ** 2
    return total
