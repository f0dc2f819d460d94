"""LP-FT."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import MaybeRate, Method, MethodInfo, Requires, Share
from .learner import Batches, Learner, pooled


class LPFTLearner(Learner["LPFT"]):
    """Two optimizers; that of all begins when the classifier's has ended."""

    def build(self) -> None:
        """Of the classifier, and of all."""
        self.linear_steps = round(self.hp.linear_share * self.setup.steps)
        made, rate = self.setup.optimizer, self.hp.linear_learning_rate
        self.of_head = made(self.network.classifier.parameters(), learning_rate=rate)
        self.of_all = made(self.network.parameters())

    @property
    def head_alone(self) -> bool:
        """Whether only the classifier is trained."""
        return self.step < self.linear_steps

    def objective(self, batches: Batches) -> Tensor:
        """The risk; of fixed features at first."""
        inputs, labels, _ = pooled(batches)
        features = self._probed(inputs) if self.head_alone else self.network.features(inputs)
        return self.total(risk=self.setup.loss(self.network.head(features), labels).mean())

    def update(self, batches: Batches) -> Tensor:
        """A step of one of the two."""
        loss = self.backward(batches)
        self.setup.amp.step(self.of_head if self.head_alone else self.of_all)
        self.of_all.zero_grad()
        return loss

    @torch.no_grad()
    def _probed(self, inputs: Tensor) -> Tensor:
        """Features as for evaluation, so that no running statistics move; with dropout."""
        body = self.network.body
        training = body.training
        body.eval()
        features = self.network.features(inputs)
        body.train(training)
        return features


@dataclass(frozen=True)
class LPFT(Method):
    """ERM of the classifier alone on features that stand still, then of all.

    arXiv 2202.10054. Ours: a share of the updates for each instead of training to convergence, and
    a fresh optimizer, for the classifier, too, when all begins.
    """

    info = MethodInfo(
        name="lp-ft",
        title="LP-FT",
        summary="train the classifier first, then all, so that good features are not distorted",
        paper="arXiv 2202.10054",
        cost="1 pass, less at first",
    )
    requires = Requires(min_domains=1, features=True, sharding="sample by sample")
    code = LPFTLearner

    linear_share: Share = 0.1
    """Of the run's updates, in which the classifier is trained alone."""
    linear_learning_rate: MaybeRate = None
    """Of the classifier in its updates; the run's unless told."""
