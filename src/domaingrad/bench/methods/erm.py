"""Empirical risk minimisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from domaingrad import rules
from domaingrad.engine import DDPAgreement

from .base import Batches, Bound, Dealt, Losses, Method, pooled


@dataclass(frozen=True)
class ERM(Method):
    """One plain backward pass on the pooled, domain-balanced batch."""

    name = "erm"
    title = "ERM"
    summary = "the mean loss of all source domains, as usual training does"
    paper = "Vapnik 1998; arXiv 2007.01434 for its place in domain generalisation"

    @property
    def fewest_sources(self) -> int:
        """One will do."""
        return 1

    @property
    def dealt(self) -> Dealt:
        """BatchNorm sees a mixture of all domains, as in one process."""
        return "sample by sample"

    def bind(
        self,
        model: nn.Module,
        optimiser: Optimizer,
        losses: Losses,
        generator: Generator,
        scaler: GradScaler,
    ) -> Bound:
        """Pool the batches; several processes average by their numbers of samples.

        Not by DistributedDataParallel's own mean: that takes all processes to have as many, and
        how it rounds depends on what it has learnt in its first step, so that a run that goes on
        would come to other numbers.
        """
        averaging = None
        if isinstance(model, DistributedDataParallel):
            averaging = DDPAgreement(model, rules.Mean(), domain=0, scaler=scaler)

        def backward(batches: Batches) -> Tensor:
            inputs, labels, _ = pooled(batches)
            if averaging is not None:
                averaging.samples = len(labels)
            loss = losses(model(inputs), labels).mean()
            torch.autograd.backward(scaler.scale(loss))
            return loss.detach()

        return Bound(backward)
