"""The network for digits against its layers written out."""

import pytest
import torch
from torch.nn import functional as F

from domaingrad.bench.models import mnist_cnn


def test_the_layers_are_those_of_domainbed():
    model = mnist_cnn((2, 28, 28), 10)
    x = torch.randn(3, 2, 28, 28)
    expected = x
    parameters = iter(list(model.parameters()))
    for width, stride in ((64, 1), (128, 2), (128, 1), (128, 1)):
        weight, bias = next(parameters), next(parameters)
        assert weight.shape[0] == width
        expected = F.relu(F.conv2d(expected, weight, bias, stride=stride, padding=1))
        expected = F.group_norm(expected, 8, next(parameters), next(parameters))
    expected = F.linear(expected.mean((2, 3)), next(parameters), next(parameters))
    assert not list(parameters)
    torch.testing.assert_close(model(x), expected)


def test_the_count_of_parameters_is_as_by_hand():
    convolutions = (64 * 2 + 128 * 64 + 128 * 128 + 128 * 128) * 9 + 64 + 3 * 128
    norms = 2 * (64 + 3 * 128)
    head = 128 * 10 + 10
    model = mnist_cnn((2, 28, 28), 10)
    assert sum(p.numel() for p in model.parameters()) == convolutions + norms + head


@pytest.mark.parametrize("shape", [(28, 28), (784,), (1, 2, 28, 28)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"shape \(channels, height, width\); found .*Use mlp"):
        mnist_cnn(shape, 10)
