"""GSNR-guided dropout, and what it is compared with at an equal number of dropped weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from domaingrad.bench.protocol import Distribution, Uniform
from domaingrad.dropout import GSNRDropout, LearnedRatio, Select

from .base import Batches, Bound, Losses, Method, pooled

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
    rescale: bool = False
    """Whether what is kept is divided by its share."""

    @property
    def name(self) -> str:
        """``gsnr-dropout``, or ``drop-…`` for what it is compared with."""
        kind = "gsnr-dropout" if self.select == "high-gsnr" else f"drop-{self.select}"
        fixed = "" if self.learned else "-fixed"
        return f"{kind}{fixed}{'-rescaled' if self.rescale else ''}"

    @property
    def title(self) -> str:
        """With the kind of ratio."""
        kind = "GSNR dropout" if self.select == "high-gsnr" else f"Drop {self.select}"
        ratio = f"{'learned' if self.learned else 'fixed'} ratio"
        return f"{kind}, {ratio}{', rescaled' if self.rescale else ''}"

    @property
    def summary(self) -> str:
        """What is dropped."""
        share = "a learned share" if self.learned else "a fixed share"
        rest = " and divide the rest by what share it is" if self.rescale else ""
        return f"drop, in each step, {share} of the weights with {DROPPED[self.select]}{rest}"

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
        return ("erm", replace(self, select="high-gsnr").name)

    def hyperparameters(self) -> dict[str, Any]:
        """The ratio; the other fields are in the name."""
        return {"ratio": self.ratio}

    @property
    def search(self) -> Mapping[str, Distribution]:
        """Ours, since no search is published: as DomainBed draws the dropped share of RSC."""
        return {"ratio": Uniform(0, 0.5)}

    @property
    def fewest_sources(self) -> int:
        """Two where the ratio is learned."""
        return 2 if self.learned else 1

    def bind(
        self,
        model: nn.Module,
        optimiser: Optimizer,
        losses: Losses,
        generator: Generator,
        scaler: GradScaler,
    ) -> Bound:
        """Mask the model, and hold the optimiser.

        Raises:
            ValueError: gradients in fp16, too small for statistics that are not scaled.
        """
        if scaler.is_enabled():
            raise ValueError(
                f"{self.name} squares the gradients of single samples, which fp16 cannot hold; use "
                f"the precision bf16-mixed or 32."
            )
        ratio = LearnedRatio(start=self.ratio) if self.learned else self.ratio
        dropout = GSNRDropout(
            model, ratio, select=self.select, rescale=self.rescale, generator=generator
        )
        dropout.hold(optimiser)

        def backward(batches: Batches) -> Tensor:
            inputs, labels, domain = pooled(batches)

            def own(outputs: Tensor) -> Tensor:
                return losses(outputs, labels)

            dropout.update(inputs, own, domain)
            loss = own(model(inputs)).mean()
            torch.autograd.backward(loss)
            return loss.detach()

        def numbers() -> dict[str, float]:
            return {f"ratio of {name}": p for name, p in dropout.ratios.items()}

        return Bound(backward, dropout, numbers if self.learned else dict)
