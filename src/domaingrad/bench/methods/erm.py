"""Empirical risk minimisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, nn
from torch.optim import Optimizer

from .base import Batches, Bound, Losses, Method


@dataclass(frozen=True)
class ERM(Method):
    """One plain backward pass on the pooled, domain-balanced batch."""

    name = "erm"
    title = "ERM"
    summary = "the mean loss of all source domains, as usual training does"
    paper = "Vapnik 1998; arXiv 2007.01434 for its place in domain generalisation"

    def bind(
        self, model: nn.Module, optimiser: Optimizer, losses: Losses, generator: Generator
    ) -> Bound:
        """Pool the batches."""

        def backward(batches: Batches) -> float:
            inputs = torch.cat([x for x, _ in batches.values()])
            labels = torch.cat([y for _, y in batches.values()])
            loss = losses(model(inputs), labels).mean()
            torch.autograd.backward(loss)
            return loss.item()

        return Bound(backward)
