"""Convolutions of every dimension and kind of padding, and the blocks made of them."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from .problem import CLASSES, normal, problem, square


def classifier(pool: type[nn.Module], channels: int) -> list[nn.Module]:
    return [pool(1), nn.Flatten(), nn.Linear(channels, CLASSES)]


def over_time() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 4, 3, padding=1, padding_mode="circular"),
        nn.Tanh(),
        nn.Conv1d(4, 6, 3, groups=2, dilation=2, stride=2),
        nn.Tanh(),
        *classifier(nn.AdaptiveAvgPool1d, 6),
    )


def of_images() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, (3, 2), padding=(2, 1), padding_mode="reflect"),
        nn.Tanh(),
        nn.Conv2d(4, 6, 3, stride=(2, 1), dilation=(1, 2), groups=2, padding="valid"),
        nn.Tanh(),
        *classifier(nn.AdaptiveAvgPool2d, 6),
    )


def of_volumes() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(2, 4, (2, 3, 2), stride=(1, 2, 1), padding=(0, 1, 1), groups=2),
        nn.Tanh(),
        nn.Conv3d(4, 3, 2, bias=False),
        nn.Tanh(),
        *classifier(nn.AdaptiveAvgPool3d, 3),
    )


def depthwise_and_pointwise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, groups=3),
        nn.Tanh(),
        nn.Conv2d(6, 4, 1),
        nn.Tanh(),
        nn.Conv2d(4, 4, 3, groups=4, bias=False),
        *classifier(nn.AdaptiveAvgPool2d, 4),
    )


class PaddedUnevenly(nn.Module):
    """An even kernel at equal size: one more zero at the end than at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.zeros = nn.Conv2d(2, 4, (4, 3), padding="same")
        self.circle = nn.Conv2d(4, 4, (2, 4), padding="same", padding_mode="circular")
        self.head = nn.Conv2d(4, 2, 3, padding="valid")

    def forward(self, x: Tensor) -> Tensor:
        with warnings.catch_warnings():
            # "may require a zero-padded copy of the input"
            warnings.simplefilter("ignore")
            x = self.zeros(x)
        return self.head(torch.tanh(self.circle(torch.tanh(x))))


def transposed_over_time() -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose1d(2, 4, 3, stride=2, padding=1, output_padding=1),
        nn.Tanh(),
        nn.ConvTranspose1d(4, 2, 3, groups=2, dilation=2, bias=False),
    )


def transposed_of_images() -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(2, 4, (3, 2), stride=(2, 3), output_padding=(1, 0), groups=2),
        nn.Tanh(),
        nn.ConvTranspose2d(4, 3, 2, padding=1),
    )


def transposed_of_volumes() -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose3d(2, 4, 2, stride=2, groups=2, output_padding=(1, 0, 1)),
        nn.Tanh(),
        nn.Conv3d(4, 2, 3, stride=2),
    )


class SqueezeAndExcitation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3)
        self.squeeze, self.excite = nn.Linear(6, 2), nn.Linear(2, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.conv(x))
        gate = torch.sigmoid(self.excite(torch.tanh(self.squeeze(x.mean((2, 3))))))
        return self.head((x * gate[:, :, None, None]).square().mean((2, 3)))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.outer = nn.Conv2d(2, 3, 3, padding=1)
        self.down = nn.Conv2d(3, 4, 2, stride=2)
        self.inner = nn.Conv2d(4, 4, 3, padding=1)
        self.up = nn.ConvTranspose2d(4, 3, 2, stride=2)
        self.head = nn.Conv2d(6, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        outer = torch.tanh(self.outer(x))
        down = torch.tanh(self.down(outer))
        down = down + torch.tanh(self.inner(down))
        return self.head(torch.cat([torch.tanh(self.up(down)), outer], 1))


class ChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = of_images().to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.contiguous(memory_format=torch.channels_last))


class FrozenBackbone(nn.Module):
    """As in fine-tuning: the first layers are frozen and their statistics fixed."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
        self.backbone.requires_grad_(False)
        self.neck = nn.Conv2d(4, 4, 3)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.neck(self.backbone(x))).mean((2, 3)))


class ResidualBlocks(nn.Module):
    """One block twice, so that its convolutions see two inputs, and additions in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3)
        self.block = nn.Sequential(
            nn.Conv2d(4, 3, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3, padding=1)
        )
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(2):
            change = self.block(x)
            change += x
            x = change
        return self.head(x.mean((2, 3)))


class Frames(nn.Module):
    """A video [N, T, C, H, W], its frames as samples of a convolution and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.frame = nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Tanh())
        self.time, self.head = nn.Conv1d(4, 4, 2), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        frames = self.frame(x.flatten(0, 1)).square().mean((2, 3))
        x = frames.unflatten(0, x.shape[:2]).transpose(1, 2)
        return self.head(torch.tanh(self.time(x)).mean(2))


IMAGE = normal(2, 6, 6)

PROBLEMS = {
    "convolutions over time": problem(over_time, normal(2, 9)),
    "convolutions of images": problem(of_images, IMAGE),
    "convolutions of volumes": problem(of_volumes, normal(2, 3, 4, 3)),
    "depthwise and pointwise convolutions": problem(depthwise_and_pointwise, normal(3, 5, 5)),
    "convolutions padded unevenly": problem(PaddedUnevenly, normal(2, 5, 5), square),
    "transposed convolutions over time": problem(transposed_over_time, normal(2, 4), square),
    "transposed convolutions of images": problem(transposed_of_images, normal(2, 3, 3), square),
    "transposed convolutions of volumes": problem(
        transposed_of_volumes, normal(2, 2, 2, 2), square
    ),
    "squeeze and excitation": problem(SqueezeAndExcitation, IMAGE),
    "skip connections": problem(UNet, normal(2, 4, 4), square),
    "pixel shuffle": problem(
        lambda: nn.Sequential(nn.Conv2d(2, 8, 3), nn.PixelShuffle(2), nn.Conv2d(2, 1, 3)),
        IMAGE,
        square,
    ),
    "frames of a video": problem(Frames, normal(3, 2, 4, 4)),
    "channels last": problem(ChannelsLast, IMAGE),
    "frozen backbone": problem(FrozenBackbone, IMAGE),
    "residual blocks in place": problem(ResidualBlocks, IMAGE),
    "a loss per pixel": problem(
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Conv2d(3, 1, 3)),
        (normal(2, 9, 9),),
        square,
    ),
}
