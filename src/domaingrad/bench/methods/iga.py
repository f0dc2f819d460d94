"""IGA."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from domaingrad.bench.protocol import PowerOfTen, space

from .base import Method, MethodInfo, Requires, Weight
from .learner import Batches, Learner
from .passes import forward


class IGALearner(Learner["IGA"]):
    """Takes the gradient of gradients."""

    def objective(self, batches: Batches) -> Tensor:
        """Risk, and how far the domains' gradients are apart."""
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            done = forward(self.setup, batches)
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        each = []
        for risk in done.risks:
            found = torch.autograd.grad(risk, parameters, create_graph=True, materialize_grads=True)
            each.append(torch.cat([g.flatten() for g in found]))
        gradients = torch.stack(each)
        # The mean may stand still: the sum of what is left of it is 0, and so is its derivative.
        apart = (gradients - gradients.mean(0).detach()).square().sum()
        return self.total(risk=done.risk, penalty=self.hp.weight * apart)


@dataclass(frozen=True)
class IGA(Method):
    """R̄ + λ Σ_e ‖g_e − ḡ‖² over all parameters.

    arXiv 2008.01883 (v2) §3, as in DomainBed since May 2021; before, the penalty had no gradient.
    """

    info = MethodInfo(
        name="iga",
        title="IGA",
        summary="gradients of the domains alike: their variance is penalised",
        paper="arXiv 2008.01883",
        cost="1 forward pass, a backward pass a domain, and one through all of them",
    )
    search = space(weight=PowerOfTen(1, 5))
    requires = Requires(fp16=False)
    code = IGALearner

    weight: Weight = 1000.0
