"""How kinds of data are usually trained: which model, how, and what a random search draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from domaingrad.bench.models import Architecture, default_backbone
from domaingrad.bench.protocol import (
    TRAIN_SHARE,
    Choice,
    Distribution,
    PowerOfTen,
    PowerOfTwo,
    space,
)
from domaingrad.bench.schema import SettingError

OptimizerName = Literal["adam", "adamw", "sgd"]
"""With coupled weight decay, but for adamw."""
Schedule = Literal["constant", "one-cycle", "exponential", "cosine"]
"""The learning rate: as it is, one cycle up to it and down (Smith & Topin), ×.9995 a step, or half
a cosine down to 0 (Loshchilov & Hutter, arXiv 1608.03983, without restarts)."""


Balance = Literal["none", "class", "group"]
"""Of what the batch of each domain holds equally many samples: of nothing, of each class, or of
each group."""


Augmentation = Literal["none", "crop", "flip", "color", "gray"]
AUGMENTATIONS: tuple[Augmentation, ...] = get_args(Augmentation)[1:]
"""How photographs are varied in training, in this order; all of it is DomainBed's."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a model is trained: the same for every method, so that runs can be compared."""

    steps: int
    batch: int
    """Samples per domain and step."""
    balance: Balance = "none"
    learning_rate: float
    weight_decay: float
    optimizer: OptimizerName = "adam"
    momentum: float = 0.0
    """Of sgd alone."""
    schedule: Schedule = "one-cycle"
    warm_up: int = 0
    """Steps over which the learning rate rises from 0, in proportion to the schedule's."""
    clip_norm: float | None = None
    """The norm that a step's gradient, of all parameters of an optimizer, does not exceed."""
    checkpoints: int = 10
    """How often, evenly through training, a model is evaluated and may be selected."""

    def __post_init__(self) -> None:
        """See that the settings go together.

        Raises:
            SettingError: they do not.
        """
        if self.momentum and self.optimizer != "sgd":
            raise SettingError(
                f"momentum is a setting of the optimizer sgd; found {self.momentum} with "
                f"{self.optimizer}, which has its own. Leave it out, or take sgd."
            )
        if self.schedule == "one-cycle" and (self.momentum or self.warm_up):
            raise SettingError(
                f"the schedule one-cycle moves momentum and warms up by itself; found momentum "
                f"{self.momentum} and {self.warm_up} steps of warm-up. Leave both out, or take "
                f"another schedule."
            )
        if self.warm_up >= self.steps:
            raise SettingError(
                f"warm_up has to end before training does; found {self.warm_up} of {self.steps} "
                f"steps. Take fewer."
            )

    def described(self, model: str) -> str:
        """Everything, in one line."""
        momentum = f", momentum {self.momentum:g}" if self.momentum else ""
        balanced = "" if self.balance == "none" else f", as many of each {self.balance}"
        warm_up = f" after {self.warm_up} steps of warm-up" if self.warm_up else ""
        clipped = "" if self.clip_norm is None else f", gradient norm up to {self.clip_norm:g}"
        return (
            f"{model}, {self.optimizer} with learning rate {self.learning_rate:g} "
            f"({self.schedule}{warm_up}) and weight decay {self.weight_decay:g}{momentum}"
            f"{clipped}, {self.batch} samples per domain and step{balanced}"
        )


@dataclass(frozen=True, kw_only=True)
class Recipe(Training):
    """How data are trained unless told otherwise, and what."""

    backbone: Architecture
    chosen: str
    """How these settings came about, for the reader of a report to judge."""
    varied_from: int = 0
    """Steps from which photographs are varied, all ways, unless told otherwise."""
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


SHORT = 500
"""Steps of a run too short for what varied photographs would give it: see docs/training.md."""


def for_photographs(shape: tuple[int, ...]) -> Recipe:
    """DomainBed's for photographs (arXiv 2007.01434, appendix D), but for short runs."""
    return Recipe(
        steps=5000, batch=32, learning_rate=5e-5, weight_decay=0.0, schedule="constant",
        checkpoints=20, varied_from=SHORT, backbone=Architecture(default_backbone(shape)),
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


FEWEST_STEPS, EPOCHS, BATCH = 1000, 10, 64
FEW_ROWS = 1000
"""Of a table for which ``wide-deep`` validates better than ``mlp``, on sources."""


def for_tables(sizes: Sequence[int]) -> Recipe:
    """Ours for tables: ten passes over a domain of mean size, and 1000 steps at least.

    Args:
        sizes: rows of each domain.
    """
    passes = math.ceil(EPOCHS * TRAIN_SHARE * sum(sizes) / max(1, len(sizes)) / BATCH)
    return Recipe(
        steps=max(FEWEST_STEPS, passes), batch=BATCH, learning_rate=3e-3, weight_decay=0.03,
        optimizer="adamw", schedule="one-cycle", checkpoints=20,
        backbone=Architecture("wide-deep" if sum(sizes) < FEW_ROWS else "mlp"),
        chosen="ours, by source validation on heart disease, diabetes, breast cancer, digits and "
        "Friedman's #1",
        search=space(
            learning_rate=PowerOfTen(-3.5, -2), weight_decay=PowerOfTen(-4, -0.5),
            batch=PowerOfTwo(5, 7.99),
        ),
    )  # fmt: skip


HEADS = {
    "linear": Architecture("linear", {"bias": True}),
    "mlp": Architecture("mlp", {"hidden": (128,)}),
}
"""What is trained upon embeddings."""


def for_embeddings(samples: int, domains: int, head: Literal["linear", "mlp"] = "mlp") -> Recipe:
    """Ours for embeddings: about nine epochs, 300 steps at least and 10,000 at most.

    Args:
        samples: of all domains.
        domains: how many there are.
        head: what is trained.
    """
    batch, epochs = 64, 9
    steps = min(10_000, max(300, epochs * samples // (batch * max(1, domains))))
    return Recipe(
        steps=steps, batch=batch, learning_rate=1e-3, weight_decay=1e-2, optimizer="adamw",
        schedule="cosine", checkpoints=10, backbone=HEADS[head],
        chosen="ours, by source validation on PACS (efficientnet-lite0) and on reviews",
        search=space(
            learning_rate=PowerOfTen(-3.5, -2.5), weight_decay=PowerOfTen(-3, 0),
            batch=PowerOfTwo(5, 7),
        ),
    )  # fmt: skip
