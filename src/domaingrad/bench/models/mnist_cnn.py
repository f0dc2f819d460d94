"""DomainBed's network for digits."""

from __future__ import annotations

from torch import nn

WIDTHS = (64, 128, 128, 128)
STRIDES = (1, 2, 1, 1)
GROUPS = 8


def mnist_cnn(shape: tuple[int, ...], outputs: int) -> nn.Sequential:
    """DomainBed's MNIST_CNN (Gulrajani & Lopez-Paz, arXiv 2007.01434).

    Four 3 × 3 convolutions with 64, 128 (stride 2), 128 and 128 channels, each followed by ReLU and
    GroupNorm(8); the mean over positions; a linear layer.

    Args:
        shape: channels, height and width of an image.
        outputs: width of the linear layer.

    Raises:
        ValueError: another shape.

    >>> import torch
    >>> model = mnist_cnn((2, 28, 28), 2)
    >>> model(torch.zeros(5, 2, 28, 28)).shape
    torch.Size([5, 2])
    """
    if len(shape) != 3:
        raise ValueError(
            f"mnist-cnn takes images of shape (channels, height, width); found inputs of shape "
            f"{shape}. Use mlp, which takes any."
        )
    layers: list[nn.Module] = []
    channels = shape[0]
    for width, stride in zip(WIDTHS, STRIDES, strict=True):
        layers += [
            nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1),
            nn.ReLU(),
            nn.GroupNorm(GROUPS, width),
        ]
        channels = width
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, outputs)
    )
