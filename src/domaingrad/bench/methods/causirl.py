"""CausIRL, with CORAL's distance or MMD's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from domaingrad.bench.protocol import PowerOfTen, space

from .base import Method, MethodInfo, Requires, Weight
from .distances import FEWEST, coral, mmd
from .passes import Forward, Members, PenaltyLearner

Distance = Literal["coral", "mmd"]


class CausIRLLearner(PenaltyLearner["CausIRL"]):
    """Draws where each domain is cut."""

    def penalty(self, done: Forward) -> Tensor:
        """Between all first parts and all second ones; 0 where one has fewer than two samples."""
        sides = []
        for size in done.sizes:
            cut = int(torch.randint(size, (), generator=self.setup.generator))
            sides += [0] * cut + [1] * (size - cut)
        rows = [[at for at, side in enumerate(sides) if side == which] for which in (0, 1)]
        sizes = (len(rows[0]), len(rows[1]))
        if min(sizes) < FEWEST:
            return done.features.new_zeros(())
        parts = done.features[torch.tensor(rows[0] + rows[1], device=done.features.device)]
        distance = coral if self.hp.distance == "coral" else mmd
        return distance(parts, Members(sizes))


@dataclass(frozen=True)
class CausIRL(Method):
    """R̄ + w D(A, B), where each domain's samples are cut at random and A holds the first parts.

    arXiv 2206.11646, algorithm 1, as in DomainBed; but a distance that is not finite is told, and
    no 0. The samples of a domain must be in random order, as those of this package are.
    """

    distance: Distance = "coral"
    weight: Weight = 1.0

    @property
    def info(self) -> MethodInfo:
        """A name for each distance."""
        return MethodInfo(
            name=f"causirl-{self.distance}",
            title=f"CausIRL ({self.distance.upper()})",
            summary=f"features alike in two random mixtures of the domains, by {self.distance}",
            paper="arXiv 2206.11646",
            cost="1 pass, and products of features",
        )

    def hyperparameters(self) -> dict[str, float]:
        """Without the distance, which is in the name."""
        return {"weight": self.weight}

    search = space(weight=PowerOfTen(-1, 1))
    requires = Requires(features=True)
    code = CausIRLLearner
