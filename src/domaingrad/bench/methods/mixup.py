"""Mixup between domains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from domaingrad.bench.protocol import Distribution, PowerOfTen, space

from .base import MethodInfo, TwoReadings, Within
from .learner import Batches, Learner


class MixupLearner(Learner["Mixup"]):
    """Draws which domains meet, and in what shares."""

    def shares(self, count: int) -> list[float]:
        """λ ~ Beta(α, α) of each pair."""
        seed = int(torch.randint(2**31, (), generator=self.setup.generator))
        drawn: list[float] = (
            np.random.default_rng(seed).beta(self.hp.alpha, self.hp.alpha, count).tolist()
        )
        return drawn

    def objective(self, batches: Batches) -> Tensor:
        """The mean over pairs, from one forward pass."""
        order = torch.randperm(len(batches), generator=self.setup.generator).tolist()
        each, inputs, told = list(batches.values()), [], []
        for one, other, share in zip(
            order, [*order[1:], order[0]], self.shares(len(order)), strict=True
        ):
            (x, y), (u, v) = each[one], each[other]
            n = min(len(y), len(v))
            inputs.append(share * x[:n] + (1 - share) * u[:n])
            told.append((y[:n], v[:n], share))
        outputs: tuple[Tensor, ...] = self.network(torch.cat(inputs)).split(
            [len(x) for x in inputs]
        )
        loss = self.setup.loss
        risks = [
            share * loss(o, y).mean() + (1 - share) * loss(o, v).mean()
            for o, (y, v, share) in zip(outputs, told, strict=True)
        ]
        return self.total(risk=torch.stack(risks).mean())


@dataclass(frozen=True)
class Mixup(TwoReadings):
    """Mean over pairs (i, j) of λ R(x, y_i) + (1−λ) R(x, y_j), x = λ x_i + (1−λ) x_j.

    arXiv 2001.00677 and 1912.01805, as DomainBed pairs domains in a random ring, with one λ a pair.
    As published: a random search has α = 0.1 in every draw.
    """

    meant = MethodInfo(
        name="mixup",
        title="Mixup",
        summary="mixtures of inputs of two domains, with their labels in the same shares",
        paper="arXiv 2001.00677",
    )
    published = "Mixup with alpha 0.1 in every draw of a search"
    code = MixupLearner

    alpha: Annotated[float, Within("Beta(alpha, alpha) is a distribution", 0, 1e6, (0,))] = 0.2

    @property
    def search(self) -> Mapping[str, Distribution]:
        """Nothing, as published."""
        return space() if self.as_published else space(alpha=PowerOfTen(-1, 1))
