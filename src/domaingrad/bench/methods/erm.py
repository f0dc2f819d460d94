"""Empirical risk minimisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from .base import Batches, Bound, Losses, Method, pooled


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

    def bind(
        self,
        model: nn.Module,
        optimiser: Optimizer,
        losses: Losses,
        generator: Generator,
        scaler: GradScaler,
    ) -> Bound:
        """Pool the batches."""

        def backward(batches: Batches) -> Tensor:
            inputs, labels, _ = pooled(batches)
            loss = losses(model(inputs), labels).mean()
            torch.autograd.backward(scaler.scale(loss))
            return loss.detach()

        return Bound(backward)
