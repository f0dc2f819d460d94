"""SqueezeNet, which needs no library."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FIRES = (
    (96, 16, 64), (128, 16, 64), (128, 32, 128), None,
    (256, 32, 128), (256, 48, 192), (384, 48, 192), (384, 64, 256), None,
    (512, 64, 256),
)  # fmt: skip
"""Channels that enter a fire module, its squeezed and its expanded ones (twice); ``None`` pools."""
COLOURS, WIDTH = 3, 512


class Fire(nn.Module):
    """A 1 × 1 convolution, then 1 × 1 and 3 × 3 ones side by side, each followed by ReLU."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Twice the expanded channels."""
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x).relu(), self.expand3x3(x).relu()], 1)


def squeezenet(shape: tuple[int, ...], outputs: int) -> nn.Sequential:
    """SqueezeNet 1.0 (Iandola et al., arXiv 1602.07360), in torchvision's names.

    Ours: a linear classifier on the features' mean over positions in place of the mean of class
    maps after a ReLU, so that features of width 512 enter it; a file's own classifier never fits.

    Args:
        shape: 3 channels, height and width of an image.
        outputs: width of the classifier.

    Raises:
        ValueError: another number of channels.

    >>> squeezenet((3, 64, 64), 7)(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 7])
    """
    if shape[0] != COLOURS:
        raise ValueError(
            f"squeezenet takes images with {COLOURS} channels; found {shape[0]} in shape {shape}."
        )
    layers = [nn.Conv2d(COLOURS, 96, 7, stride=2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True)]
    layers += [
        nn.MaxPool2d(3, 2, ceil_mode=True) if fire is None else Fire(*fire) for fire in FIRES
    ]
    model = nn.Sequential()
    model.add_module("features", nn.Sequential(*layers))
    model.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    model.add_module("classifier", nn.Sequential(nn.Dropout(), nn.Linear(WIDTH, outputs)))
    return model
