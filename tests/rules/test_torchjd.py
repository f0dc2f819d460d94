"""Our rules are aggregators for TorchJD: any callable from [K, P] to [P]."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torchjd.autojac import backward, jac_to_grad

from domaingrad.rules import AgrRand, AgrSum, ANDMask, Mean, PCGrad, Rule, SANDMask
from tests.reference import rules as reference
from tests.reference.rules import Array

from .variants import seeded

K = 2


def problem() -> tuple[list[nn.Parameter], list[torch.Tensor]]:
    """A small network and the loss of each of two domains; no gradient is zero."""
    generator = seeded(2)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    first, bias, second = (nn.Parameter(drawn(*shape)) for shape in ((3, 4), (4,), (4,)))
    x, y = drawn(K, 6, 3), drawn(K, 6)
    losses = (((x @ first + bias).tanh() @ second) - y).square().mean(1)
    return [first, bias, second], list(losses)


def stacked_gradients() -> Array:
    """[K, P] from one plain backward pass a loss."""
    parameters, losses = problem()
    return np.stack(
        [
            np.concatenate(
                [
                    gradient.flatten().numpy()
                    for gradient in torch.autograd.grad(loss, parameters, retain_graph=True)
                ]
            )
            for loss in losses
        ]
    )


def update_by_torchjd(rule: Rule) -> Array:
    parameters, losses = problem()
    backward(losses)
    jac_to_grad(parameters, rule)
    return np.concatenate([parameter.grad.flatten().numpy() for parameter in parameters])


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Mean(), reference.mean),
        (ANDMask(rescale=False), lambda G: reference.and_mask(G, rescale=False)),
        (ANDMask(), reference.and_mask),
        (
            ANDMask(average="geometric", rescale=False),
            lambda G: reference.and_mask(G, 1.0, False, "geometric"),
        ),
        (SANDMask(0.5, 0.1), lambda G: reference.sand_mask(G, 0.5, 0.1)),
        (
            SANDMask(0.5, 0.1, "relative"),
            lambda G: reference.sand_mask(G, 0.5, 0.1, "relative"),
        ),
        (AgrSum(), reference.agr_sum),
        (PCGrad(), reference.pcgrad_in_order),
    ],
    # The names of tests are the same in every process, addresses of functions are not.
    ids=lambda value: repr(value) if isinstance(value, Rule) else "reference",
)
def test_update_by_torchjd(rule: Rule, expected: Callable[[Array], Array]) -> None:
    gradients = stacked_gradients()
    agree = reference.agree(gradients)
    assert agree.any()
    assert not agree.all()
    # Float64 sums of two and, for PCGrad, products over 20 components.
    np.testing.assert_allclose(update_by_torchjd(rule), expected(gradients), rtol=1e-6, atol=1e-12)


def test_update_of_agr_rand_by_torchjd() -> None:
    gradients = stacked_gradients()
    agree = reference.agree(gradients)
    update = update_by_torchjd(AgrRand(seeded()))
    np.testing.assert_allclose(update[agree], gradients.sum(axis=0)[agree], rtol=1e-12)
    # A N(0, s²) draw is 0 or beyond 6 s with probability below 1e-8.
    noise = np.abs(update[~agree]) / reference.agr_noise_scale(gradients)
    assert (noise > 0).all()
    assert (noise < 6).all()
