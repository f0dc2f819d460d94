"""CORAL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from domaingrad.bench.protocol import PowerOfTen, space

from .base import Method, MethodInfo, Requires, Weight
from .distances import coral
from .passes import Forward, PenaltyLearner


class CORALLearner(PenaltyLearner["CORAL"]):
    """Looks at features, not outputs."""

    stacks: ClassVar[bool] = True

    def penalty(self, done: Forward) -> Tensor:
        """Over all pairs of domains."""
        return coral(done.features, done.members)


@dataclass(frozen=True)
class CORAL(Method):
    """R̄ + w · the mean over pairs of domains of the distance of their features' first two moments.

    arXiv 1607.01719 for two domains; means, pairs and scale as in DomainBed.
    """

    info = MethodInfo(
        name="coral",
        title="CORAL",
        summary="features of equal mean and covariance in all domains",
        paper="arXiv 1607.01719",
        cost="1 pass, and products of features",
    )
    search = space(weight=PowerOfTen(-1, 1))
    requires = Requires(features=True)
    code = CORALLearner

    weight: Weight = 1.0
