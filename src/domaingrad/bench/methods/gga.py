"""GGA-L."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from domaingrad.bench.protocol import PowerOfTen, space

from .base import MethodInfo, TwoReadings, Weight
from .learner import Batches, Learner
from .passes import domain_gradients, leave, on_device


def mean_cosine(gramian: Tensor) -> Tensor:
    """The mean over pairs of domains of ⟨g_i, g_j⟩/(‖g_i‖ ‖g_j‖), from the products [K, K]."""
    norms = gramian.diagonal().clamp(min=torch.finfo(gramian.dtype).tiny).sqrt()
    cosines = gramian / torch.outer(norms, norms)
    count = len(gramian)
    return (cosines.sum() - cosines.diagonal().sum()) / (count * (count - 1))


class GGALearner(Learner["GGAL"]):
    """The mean gradient, with noise where the domains disagree."""

    def backward(self, batches: Batches) -> Tensor:
        """A pass a domain; the noise is drawn on the parameters' device."""
        found = list(domain_gradients(self.setup, self.network, batches))
        stacks = [torch.stack(each) for each in zip(*(g for _, g in found), strict=True)]
        rows = [stack.flatten(1) if stack.dim() > 1 else stack[:, None] for stack in stacks]
        cosine = mean_cosine(torch.stack([row @ row.T for row in rows]).sum(0))
        size = self.setup.amp.scale(self.hp.gamma * (1 - cosine))
        generator = on_device(self.setup.generator, stacks[0].device)
        draw = torch.rand if self.hp.as_published else torch.randn
        noise = [
            draw(s.shape[1:], generator=generator, dtype=s.dtype, device=s.device) for s in stacks
        ]
        leave(self.network, [s.mean(0) + size * e for s, e in zip(stacks, noise, strict=True)])
        return self.total(risk=torch.stack([risk for risk, _ in found]).mean())


@dataclass(frozen=True)
class GGAL(TwoReadings):
    """ḡ + γ (1 − the mean pairwise cosine of the g_e) ε at every step.

    arXiv 2502.20162 (CVPR 2025), GGA-L. As meant: ε ~ N(0, 1), as in the paper's algorithm. As
    published (the authors' code): ε ~ U(0, 1), which has a mean. The search of γ is ours.
    """

    meant = MethodInfo(
        name="gga-l",
        title="GGA-L",
        summary="noise on the gradient, as much as the domains' gradients disagree",
        paper="arXiv 2502.20162",
        cost="1 pass in K parts, and products of the gradients",
    )
    published = "GGA-L with noise from 0 to 1"
    search = space(gamma=PowerOfTen(-5, -2))
    code = GGALearner

    gamma: Weight = 0.001
