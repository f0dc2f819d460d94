"""GSNR-guided dropout, and what it is compared with at an equal number of dropped weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from torch import Tensor

from domaingrad.bench.protocol import Uniform, space
from domaingrad.dropout import GSNRDropout, LearnedRatio, Select

from .base import Method, MethodInfo, Requires
from .learner import Batches, Learner, pooled

DROPPED: Mapping[Select, str] = {
    "high-gsnr": "the highest gradient signal-to-noise ratio",
    "low-gsnr": "the lowest gradient signal-to-noise ratio",
    "high-gradient": "the largest mean gradient",
    "random": "no distinction, drawn at random,",
}


class GSNRDropoutLearner(Learner["GSNRDropoutMethod"]):
    """Masks the network, and holds the optimizer back from what is dropped."""

    def ready(self) -> None:
        """Mask.

        Raises:
            ValueError: gradients in fp16, too small for statistics that are not scaled.
        """
        hp = self.hp
        if self.setup.amp.scaler.is_enabled():
            raise ValueError(
                f"{hp.info.name} squares the gradients of single samples, which fp16 cannot hold; "
                f"use the precision bf16-mixed or 32."
            )
        self.dropout = GSNRDropout(
            self.network,
            LearnedRatio(start=hp.ratio) if hp.learned else hp.ratio,
            select=hp.select,
            rescale=hp.rescale,
            generator=self.setup.generator,
        )
        self.dropout.hold(self.optimizer)

    def objective(self, batches: Batches) -> Tensor:
        """The mean loss under the masks of this step."""
        inputs, labels, domain = pooled(batches)

        def losses(outputs: Tensor) -> Tensor:
            return self.setup.loss(outputs, labels)

        self.dropout.update(inputs, losses, domain)
        return losses(self.network(inputs)).mean()

    def metrics(self) -> Mapping[str, float]:
        """The learned ratios."""
        if not self.hp.learned:
            return {}
        plain = self.network.plain_name
        return {f"ratio of {plain(name)}": p for name, p in self.dropout.ratios.items()}


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

    code = GSNRDropoutLearner

    @property
    def info(self) -> MethodInfo:
        """``gsnr-dropout``, or ``drop-…`` for what it is compared with."""
        published = self.select == "high-gsnr"
        name = "gsnr-dropout" if published else f"drop-{self.select}"
        title = "GSNR dropout" if published else f"Drop {self.select}"
        ratio = f"{'learned' if self.learned else 'fixed'} ratio"
        share = "a learned share" if self.learned else "a fixed share"
        rest = " and divide the rest by what share it is" if self.rescale else ""
        ending = f"{'' if self.learned else '-fixed'}{'-rescaled' if self.rescale else ''}"
        paper = "arXiv 2310.07361, our reading"
        return MethodInfo(
            name=f"{name}{ending}",
            title=f"{title}, {ratio}{', rescaled' if self.rescale else ''}",
            summary=f"drop, in each step, {share} of the weights with {DROPPED[self.select]}{rest}",
            paper=paper if published else f"ablation of {paper}",
            cost=f"1 pass, one for statistics{', two for the ratio' if self.learned else ''}",
            # Of an ablation the published selection with the same kind of ratio, too.
            baselines=("erm",) if published else ("erm", f"gsnr-dropout{ending}"),
            ablation=self.rescale or not published,
        )

    @property
    def requires(self) -> Requires:
        """Two domains where the ratio is learned; one process, for it looks at all samples."""
        return Requires(min_domains=2 if self.learned else 1)

    def hyperparameters(self) -> dict[str, Any]:
        """The ratio; the other fields are in the name."""
        return {"ratio": self.ratio}

    # Ours, since no search is published: as DomainBed draws the dropped share of RSC.
    search = space(ratio=Uniform(0, 0.5))


ABLATIONS: dict[str, tuple[GSNRDropoutMethod, ...]] = {
    name: tuple(
        GSNRDropoutMethod(select, learned, rescale=rescale)
        for select in get_args(Select)
        for learned in (True, False)
    )
    for name, rescale in (("gsnr", False), ("gsnr, rescaled", True))
}
"""By the name of the ablation; the first two of the first are the published method."""
