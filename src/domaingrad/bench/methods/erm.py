"""Empirical risk minimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import Method, MethodInfo, Requires
from .learner import Batches, Learner
from .passes import forward


class ERMLearner(Learner["ERM"]):
    """One plain backward pass."""

    stacks: ClassVar[bool] = True

    def objective(self, batches: Batches) -> Tensor:
        """The mean loss of the pooled, domain-balanced batch."""
        return forward(self.setup, batches).risk


@dataclass(frozen=True)
class ERM(Method):
    """The mean loss of all source domains."""

    info = MethodInfo(
        name="erm",
        title="ERM",
        summary="the mean loss of all source domains, as usual training does",
        paper="Vapnik 1998; arXiv 2007.01434 for its place in domain generalisation",
    )
    # Sample by sample, BatchNorm sees a mixture of all domains, as in one process.
    requires = Requires(min_domains=1, sharding="sample by sample")
    code = ERMLearner
