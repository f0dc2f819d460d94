"""MMD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from domaingrad.bench.protocol import PowerOfTen, space

from .base import Method, MethodInfo, Requires, Weight
from .distances import mmd
from .passes import Forward, PenaltyLearner


class MMDLearner(PenaltyLearner["MMD"]):
    """Looks at features, not outputs."""

    stacks: ClassVar[bool] = True

    def penalty(self, done: Forward) -> Tensor:
        """Over all pairs of domains."""
        return mmd(done.features, done.members)


@dataclass(frozen=True)
class MMD(Method):
    """R̄ + w · the mean over pairs of domains of the maximum mean discrepancy of their features.

    Li et al., CVPR 2018, with DomainBed's sum of seven Gaussian kernels. On features of large norm
    all but the widest kernel vanish, and so does the gradient.
    """

    info = MethodInfo(
        name="mmd",
        title="MMD",
        summary="features of the same distribution in all domains, by kernels",
        paper="Li et al., CVPR 2018",
        cost="1 pass, and distances of features",
    )
    search = space(weight=PowerOfTen(-1, 1))
    requires = Requires(features=True)
    code = MMDLearner

    weight: Weight = 1.0
