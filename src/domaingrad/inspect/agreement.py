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
        ValueError: fewer than two domains.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> x = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    >>> sign_agreement(model, (model(row).sum() for row in x))
    0.5
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    running = [RunningStatistics(["sign_sum"]) for _ in parameters]
    count = 0
    for loss in losses:
        count += 1
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for statistics, gradient in zip(running, gradients, strict=True):
            if gradient is not None:
                statistics.fold(gradient.clone())
    if count < 2:
        raise ValueError(f"agreement needs the losses of at least two domains; found {count}.")
    agreeing = sum(
        int((statistics.statistics().sign_sum.abs() == count).sum())
        for statistics in running
        if statistics.count == count
    )
    return agreeing / sum(parameter.numel() for parameter in parameters)
