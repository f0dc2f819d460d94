"""How many components of the gradient the domains agree on."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from domaingrad.engine import RunningStatistics


def sign_agreement(model: nn.Module, losses: Iterable[Tensor]) -> float:
    """Share of gradient components on whose sign all domains agree (arXiv 2108.01621).

    (1/P) Σ_p 1[ |Σ_e sign(g_{e,p})| = K ] over the P trainable components of the model; a zero in
    any domain is disagreement. For gradients of random sign it is 2^(1−K) on average. ``.grad`` is
    left alone.

    Args:
        model: the module whose parameters are looked at.
        losses: the mean loss of each domain, a scalar with its graph; a generator keeps one
            domain's graph in memory at a time.

    Raises:
        TypeError: a sparse gradient.
        ValueError: fewer than two domains, nothing to train, a loss that is no scalar with a graph.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> x = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    >>> sign_agreement(model, (model(row).sum() for row in x))
    0.5
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    running = [RunningStatistics(["sign_sum"]) for _ in parameters]
    if not parameters:
        raise ValueError("the model has no parameter that requires grad; found nothing to compare.")
    count = 0
    for loss in losses:
        if loss.numel() != 1 or not loss.requires_grad:
            raise ValueError(
                f"each loss must be the mean loss of a domain, a scalar with its graph; found "
                f"shape {list(loss.shape)}, requires_grad={loss.requires_grad}. Take the mean, and "
                f"do not detach."
            )
        count += 1
        # Kept for losses that share a forward pass; each goes with its loss.
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        del loss
        for statistics, gradient in zip(running, gradients, strict=True):
            if gradient is None:
                continue
            if gradient.is_sparse:
                raise TypeError("expected dense gradients; found a sparse one. Use sparse=False.")
            statistics.fold(gradient.clone())
    if count < 2:
        raise ValueError(f"agreement needs the losses of at least two domains; found {count}.")
    agreeing = sum(
        int((statistics.statistics().sign_sum.abs() == count).sum())
        for statistics in running
        if statistics.count == count
    )
    return agreeing / sum(parameter.numel() for parameter in parameters)
