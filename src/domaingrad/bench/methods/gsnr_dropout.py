"""GSNR-guided dropout, and what it is compared with at an equal number of dropped weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from domaingrad.dropout import GSNRDropout, LearnedRatio, Select

from .base import Batches, Bound, Losses, Method

DROPPED: Mapping[Select, str] = {
    "high-gsnr": "the highest gradient signal-to-noise ratio",
    "low-gsnr": "the lowest gradient signal-to-noise ratio",
    "high-gradient": "the largest mean gradient",
    "random": "no distinction, drawn at random,",
}


@dataclass(frozen=True)
class GSNRDropoutMethod(Method):
    """ERM with the weights of one kind dropped in each step; statistics over samples.

    Only ``select="high-gsnr"`` is the published method; the rest is for ablations.
    """

    select: Select = "high-gsnr"
    learned: bool = True
    ratio: float = 1 / 3
    """The dropped share, or where learning it starts."""

    @property
    def name(self) -> str:
        """``gsnr-dropout``, or ``drop-…`` for what it is compared with."""
        kind = "gsnr-dropout" if self.select == "high-gsnr" else f"drop-{self.select}"
        return kind if self.learned else f"{kind}-fixed"

    @property
    def title(self) -> str:
        """With the kind of ratio."""
        kind = "GSNR dropout" if self.select == "high-gsnr" else f"Drop {self.select}"
        return f"{kind}, {'learned' if self.learned else 'fixed'} ratio"

    @property
    def summary(self) -> str:
        """What is dropped."""
        share = "a learned share" if self.learned else "a fixed share"
        return f"drop, in each step, {share} of the weights with {DROPPED[self.select]}"

    @property
    def paper(self) -> str:
        """The published method, or that it is an ablation of it."""
        paper = "arXiv 2310.07361, our reading"
        return paper if self.select == "high-gsnr" else f"ablation of {paper}"

    @property
    def rivals(self) -> tuple[str, ...]:
        """ERM; for an ablation the published selection with the same kind of ratio, too."""
        if self.select == "high-gsnr":
            return ("erm",)
        return ("erm", GSNRDropoutMethod(learned=self.learned).name)

    def hyperparameters(self) -> dict[str, Any]:
        """The ratio; the other two fields are in the name."""
        return {"ratio": self.ratio}

    def bind(
        self, model: nn.Module, optimiser: Optimizer, losses: Losses, generator: Generator
    ) -> Bound:
        """Mask the model, and hold the optimiser."""
        ratio = LearnedRatio(start=self.ratio) if self.learned else self.ratio
        dropout = GSNRDropout(model, ratio, select=self.select, generator=generator)
        dropout.hold(optimiser)

        def backward(batches: Batches) -> float:
            inputs = torch.cat([x for x, _ in batches.values()])
            labels = torch.cat([y for _, y in batches.values()])
            sizes = torch.tensor([len(y) for _, y in batches.values()])
            domain = torch.arange(len(sizes)).repeat_interleave(sizes)

            def own(outputs: Tensor) -> Tensor:
                return losses(outputs, labels)

            dropout.update(inputs, own, domain)
            loss = own(model(inputs)).mean()
            torch.autograd.backward(loss)
            return loss.item()

        def numbers() -> dict[str, float]:
            return {f"ratio of {name}": p for name, p in dropout.ratios.items()}

        return Bound(backward, numbers if self.learned else dict)
