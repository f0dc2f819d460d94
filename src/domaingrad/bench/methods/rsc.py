"""RSC."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from domaingrad.bench.protocol import Uniform, space

from .base import Method, MethodInfo, Requires, Share
from .learner import Batches, Learner, pooled
from .passes import full


def below(values: Tensor, dropped: float, dim: int) -> Tensor:
    """Where a value is strictly below the percentile 100 (1 − dropped), interpolated linearly."""
    place = (1 - dropped) * (values.shape[dim] - 1)
    low, ordered = math.floor(place), values.sort(dim).values
    high = min(low + 1, values.shape[dim] - 1)
    below_it, above_it = (ordered.narrow(dim, at, 1) for at in (low, high))
    return values < torch.lerp(below_it, above_it, place - low)


class RSCLearner(Learner["RSC"]):
    """Masks features that matter most, of samples that need them most."""

    def objective(self, batches: Batches) -> Tensor:
        """The risk under the masks, which have no gradient."""
        x, y, _ = pooled(batches)
        z = self.network.features(x)
        mask = self._mask(z.detach(), y)
        return self.total(risk=self.setup.loss(self.network.head(z * mask.to(z)), y).mean())

    def _mask(self, z: Tensor, y: Tensor) -> Tensor:
        leaf = z.requires_grad_()
        told = full(self.network.head(leaf)).gather(1, y[:, None])
        (slope,) = torch.autograd.grad(told.sum(), leaf)
        features = below(full(slope), self.hp.features, 1)
        with torch.no_grad():
            kept, muted = (
                full(self.network.head(each)).softmax(1).gather(1, y[:, None])
                for each in (z, z * features.to(z))
            )
        return features | below(kept - muted, self.hp.samples, 0)


@dataclass(frozen=True)
class RSC(Method):
    """Mutes the features with the largest ∂ logit_y/∂z, in the samples whose p_y falls most by it.

    arXiv 2007.02454 §3, on pooled features as in DomainBed, whose maintainers rewrote the authors'
    version. Comparisons are strict: ``features`` = 0 still mutes the largest.
    """

    info = MethodInfo(
        name="rsc",
        title="RSC",
        summary="mute the features that matter most, so that others must learn",
        paper="arXiv 2007.02454",
        cost="1 pass, and three of the classifier",
    )
    search = space(features=Uniform(0, 0.5), samples=Uniform(0, 0.5))
    requires = Requires(min_domains=1, features=True, classes=True)
    code = RSCLearner

    features: Share = 1 / 3
    """Share of a sample's features that are muted."""
    samples: Share = 1 / 3
    """Share of the samples in which they are."""
