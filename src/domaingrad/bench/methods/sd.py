"""Spectral decoupling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from domaingrad.bench.protocol import PowerOfTen, space

from .base import Method, MethodInfo, Requires, Weight
from .passes import Forward, PenaltyLearner


class SDLearner(PenaltyLearner["SD"]):
    """Looks at outputs alone."""

    stacks: ClassVar[bool] = True

    def penalty(self, done: Forward) -> Tensor:
        """The mean square over samples and outputs."""
        return done.members.mean(done.outputs.square().mean(1))


@dataclass(frozen=True)
class SD(Method):
    """R̄ + λ · the mean of outputs² over samples and classes.

    arXiv 2011.09468 §3, with DomainBed's λ: 2/C of the paper's, which has a sum and a factor 1/2.
    """

    info = MethodInfo(
        name="sd",
        title="SD",
        summary="small outputs, so that one feature cannot stand in for all others",
        paper="arXiv 2011.09468",
    )
    search = space(weight=PowerOfTen(-5, -1))
    requires = Requires(min_domains=1, sharding="sample by sample")
    code = SDLearner

    weight: Weight = 0.1
