"""How kinds of data are usually trained: which model, how, and what a random search draws."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from domaingrad.bench.models import Architecture, default_backbone
from domaingrad.bench.protocol import Choice, Distribution, PowerOfTen, PowerOfTwo, space

Schedule = Literal["constant", "one-cycle", "exponential"]
"""The learning rate: as it is, one cycle up to it and down (Smith & Topin), or ×.9995 a step."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a model is trained: the same for every method, so that runs can be compared."""

    steps: int
    batch: int
    """Samples per domain and step."""
    learning_rate: float
    weight_decay: float
    optimizer: Literal["adam", "sgd"] = "adam"
    schedule: Schedule = "one-cycle"
    checkpoints: int = 10
    """How often, evenly through training, a model is evaluated and may be selected."""

    def described(self, model: str) -> str:
        """Everything, in one line."""
        return (
            f"{model}, {self.optimizer} with learning rate {self.learning_rate:g} "
            f"({self.schedule}) and weight decay {self.weight_decay:g}, "
            f"{self.batch} samples per domain and step"
        )


@dataclass(frozen=True, kw_only=True)
class Recipe(Training):
    """How data are trained unless told otherwise, and what."""

    backbone: Architecture
    chosen: str
    """How these settings came about, for the reader of a report to judge."""
    search: Mapping[str, Distribution] | None = None
    """From what a random search draws them; ``None`` for ours, around the defaults."""

    @property
    def distributions(self) -> Mapping[str, Distribution]:
        """The search space; ours lies around the defaults as DomainBed's does around its own."""
        if self.search is not None:
            return self.search
        rate, batch = math.log10(self.learning_rate), math.log2(self.batch)
        return space(
            learning_rate=PowerOfTen(rate - 1.5, rate + 0.5),
            weight_decay=PowerOfTen(-6, -2),
            batch=PowerOfTwo(batch - 1, batch + 1),
        )


def for_photographs(shape: tuple[int, ...]) -> Recipe:
    """DomainBed's for photographs (arXiv 2007.01434, appendix D)."""
    return Recipe(
        steps=5000, batch=32, learning_rate=5e-5, weight_decay=0.0, schedule="constant",
        checkpoints=20, backbone=Architecture(default_backbone(shape)),
        chosen="DomainBed's defaults",
        search=space(
            learning_rate=PowerOfTen(-5, -3.5), weight_decay=PowerOfTen(-6, -2),
            batch=PowerOfTwo(3, 5.5), dropout=Choice((0.0, 0.1, 0.5)),
        ),
    )  # fmt: skip


def for_digits(shape: tuple[int, ...]) -> Recipe:
    """DomainBed's for the digits of MNIST."""
    return Recipe(
        steps=5000, batch=64, learning_rate=1e-3, weight_decay=0.0, schedule="constant",
        checkpoints=20, backbone=Architecture(default_backbone(shape)),
        chosen="DomainBed's defaults",
        search=space(learning_rate=PowerOfTen(-4.5, -2.5), batch=PowerOfTwo(3, 9)),
    )  # fmt: skip


TABLES = Recipe(
    steps=1000, batch=64, learning_rate=1e-3, weight_decay=0.0, schedule="constant", checkpoints=20,
    backbone=Architecture("mlp"), chosen="ours, not tuned",
)  # fmt: skip
"""Ours for tables."""
