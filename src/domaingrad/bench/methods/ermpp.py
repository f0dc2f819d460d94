"""ERM++."""

from __future__ import annotations

from dataclasses import dataclass

from domaingrad.bench.protocol import PowerOfTen, space

from .base import MaybeRate, MethodInfo
from .lp_ft import LPFT


@dataclass(frozen=True)
class ERMPlusPlus(LPFT):
    """The part of ERM++ (arXiv 2304.01973) that is a method: the classifier warms up alone.

    As in DomainBed: a tenth of the updates (500 of 5001), with a learning rate of their own. The
    rest is of the run: averaged weights, schedule, training once more on all data, initial weights.
    """

    info = MethodInfo(
        name="erm++",
        title="ERM++ (warm-up)",
        summary="train the classifier first with a learning rate of its own, then all",
        paper="arXiv 2304.01973",
        cost="1 pass, less at first",
        baselines=("erm", "lp-ft"),
    )
    search = space(linear_learning_rate=PowerOfTen(-5, -3.5))

    linear_learning_rate: MaybeRate = 5e-5
