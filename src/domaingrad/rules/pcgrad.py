"""PCGrad."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import GramianRule, RandomRule


class PCGrad(RandomRule, GramianRule):
    """Project each domain's gradient off those it conflicts with, and sum.

    Yu et al., arXiv 2001.06782, Algorithm 1:

    For each i, over j ≠ i in random order: if ⟨g_i', g_j⟩ < 0, then
    g_i' ← g_i' − ⟨g_i', g_j⟩ / ‖g_j‖² · g_j.  update = Σ_i g_i'

    g_j is the original gradient. The order is drawn anew for every i, as in the paper (Mansilla
    et al. shuffle once). All products follow from the Gramian; inside a model they run over all
    parameters.

    Args:
        generator: source of the orders; without one, a CPU generator with seed 0.

    Raises:
        ValueError: fewer than two domains.

    >>> PCGrad()(torch.tensor([[1.0, 0.0], [-1.0, 1.0]]))
    tensor([0.5000, 1.5000])
    """

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self.generator = generator

    def weights(self, gramian: Tensor) -> Tensor:
        """Σ_i of the coefficients of g_i' in the originals; all i are projected side by side."""
        count = gramian.shape[0]
        generator = self._generator_on(torch.device("cpu"))
        keys = torch.rand(count, count, generator=generator, device=generator.device).cpu()
        orders = keys.fill_diagonal_(2.0).argsort(1)[:, :-1]
        norms = gramian.diagonal()
        coefficients = torch.eye(count, dtype=torch.float64)
        rows = torch.arange(count)
        for other in orders.unbind(1):
            product, norm = (coefficients * gramian[other]).sum(1), norms[other]
            coefficients[rows, other] -= torch.where(product < 0, product / norm, 0.0)
        return coefficients.sum(0)
