"""Empirical risk minimisation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .base import Method, MethodInfo, Requires
from .learner import Batches, Learner, pooled


class ERMLearner(Learner["ERM"]):
    """One plain backward pass."""

    def objective(self, batches: Batches) -> Tensor:
        """The mean loss of the pooled, domain-balanced batch."""
        inputs, labels, _ = pooled(batches)
        return self.setup.loss(self.network(inputs), labels).mean()


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
