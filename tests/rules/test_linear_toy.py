"""The AND-mask authors' linear toy: a weak feature shared by all domains beats four strong ones.

x = 3·[I₄ | 0.1·1], y = 1: domain e has the one sample x_e. ½(x·θ − 1)² is fitted either by the
domain's own feature or by the last one, which all share.
"""

import numpy as np
import pytest
import torch

from domaingrad.rules import ANDMask, Mean, Rule

FEATURES = torch.cat([torch.eye(4), torch.full((4, 1), 0.1)], dim=1).double() * 3


def train(rule: Rule, theta: torch.Tensor) -> list[float]:
    lr = 0.3
    for _ in range(1000):
        gradients = (FEATURES @ theta - 1).unsqueeze(1) * FEATURES
        theta = theta - lr * rule(gradients)
        theta = theta - 0.01 * lr * theta
        lr *= 0.9995
    return theta.tolist()


# A small random start too: a large one (std 1) would not do, as the masked components forget it
# only by weight decay, by a factor of e^−2.4 over the 1000 steps.
STARTS = (
    torch.zeros(5, dtype=torch.float64),
    torch.tensor(0.01 * np.random.default_rng(0).standard_normal(5)),
)


@pytest.mark.parametrize("start", STARTS, ids=("zero", "small"))
def test_and_mask_finds_the_shared_feature(start: torch.Tensor) -> None:
    # Stationary: (0.3 θ₅ − 1)·0.3 + 0.01 θ₅ = 0, θ₅ = 3. The start adds at most 0.02·e^−2.4.
    assert train(ANDMask(tau=1.0, rescale=False), start) == pytest.approx([0, 0, 0, 0, 3], abs=5e-3)


@pytest.mark.parametrize("start", STARTS, ids=("zero", "small"))
def test_mean_prefers_the_strong_features(start: torch.Tensor) -> None:
    # Stationary: (3a + 0.3b − 1)·¾ + 0.01 a = 0 and b = 0.4 a: a = 0.75 / 2.35, b = 0.4 a.
    a = 0.75 / 2.35
    assert train(Mean(), start) == pytest.approx([a, a, a, a, 0.4 * a], abs=5e-3)
