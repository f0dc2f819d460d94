"""Empirical risk minimisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Generator, Tensor, nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

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
        """Pool the batches."""

        def backward(batches: Batches) -> Tensor:
            inputs, labels, _ = pooled(batches)
            loss = losses(model(inputs), labels).mean()
            weight = _weight(model, labels)
            torch.autograd.backward(scaler.scale(loss if weight is None else loss * weight))
            return loss.detach()

        return Bound(backward)


def _weight(model: nn.Module, labels: Tensor) -> Tensor | None:
    """What turns DistributedDataParallel's mean over processes into one over samples: n W / Σ n."""
    if not isinstance(model, DistributedDataParallel):
        return None
    samples = torch.tensor(float(len(labels)), device=labels.device)
    dist.all_reduce(total := samples.clone(), group=model.process_group)
    return samples * dist.get_world_size(model.process_group) / total
