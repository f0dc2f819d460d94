"""The networks that the benchmarks run, in the shapes that image benchmarks use."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Norm = Callable[[int], nn.Module]


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with 8 groups."""
    return nn.GroupNorm(8, channels)


def shortcut(inputs: int, outputs: int, stride: int, norm: Norm) -> nn.Module:
    """The identity, or a 1×1 convolution where the block changes the shape."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))


class Block(nn.Module):
    """Two 3×3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = norm(outputs)
        self.shortcut = shortcut(inputs, outputs, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """A 1×1, a 3×3 and a 1×1 convolution, and a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.norm1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.norm2 = norm(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.norm3 = norm(outputs)
        self.shortcut = shortcut(inputs, outputs, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        return F.relu(self.norm3(self.conv3(y)) + self.shortcut(x))


def stem(norm: Norm) -> list[nn.Module]:
    """What all ResNets begin with: a quarter of the size, 64 channels."""
    return [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        norm(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]


def resnet50(classes: int, norm: Norm = nn.BatchNorm2d) -> nn.Sequential:
    """ResNet-50 (He et al., arXiv 1512.03385), strides in the 3×3; 23.5 million parameters."""
    layers = stem(norm)
    inputs = 64
    for width, depth, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for number in range(depth):
            layers.append(Bottleneck(inputs, width, stride if number == 0 else 1, norm))
            inputs = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def resnet18(classes: int, norm: Norm = nn.BatchNorm2d) -> nn.Sequential:
    """ResNet-18 (He et al., arXiv 1512.03385), 11.2 million parameters."""
    layers = stem(norm)
    inputs = 64
    for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Block(inputs, width, stride, norm), Block(width, width, 1, norm)]
        inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def mnist_cnn(classes: int, channels: int = 2) -> nn.Sequential:
    """DomainBed's MNIST_CNN (arXiv 2007.01434): four convolutions with GroupNorm, 0.37 million."""
    layers: list[nn.Module] = []
    inputs = channels
    for width, stride in ((64, 1), (128, 2), (128, 1), (128, 1)):
        layers += [nn.Conv2d(inputs, width, 3, stride, 1), nn.ReLU(), group_norm(width)]
        inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


class Tokens(nn.Module):
    """A class token before the patches, and a learned position for each."""

    def __init__(self, patches: int, width: int) -> None:
        super().__init__()
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, patches + 1, width))

    def forward(self, x: Tensor) -> Tensor:
        """From [N, patches, width] to [N, 1 + patches, width]."""
        return torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position


class Attention(nn.Module):
    """Multi-head self-attention out of linear layers and scaled dot products."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """One pre-norm block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """A vision transformer (Dosovitskiy et al., arXiv 2010.11929), 2.7 million parameters."""

    def __init__(
        self,
        classes: int,
        size: int = 64,
        patch: int = 8,
        width: int = 192,
        depth: int = 6,
        heads: int = 3,
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.tokens = Tokens((size // patch) ** 2, width)
        self.blocks = nn.Sequential(*(Transformer(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images."""
        x = self.tokens(self.patches(x).flatten(2).transpose(1, 2))
        return self.head(self.norm(self.blocks(x))[:, 0])


class Fire(nn.Module):
    """Squeeze by 1×1, expand by 1×1 and 3×3."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Run the module."""
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], 1)


class SqueezeNet(nn.Module):
    """SqueezeNet 1.0 (Iandola et al., arXiv 1602.07360) with a new head, for bytes 0 … 255.

    The layers have torchvision's names, so that its weights fit.
    """

    MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", 255 * torch.tensor(self.MEAN).view(1, 3, 1, 1))
        self.register_buffer("deviation", 255 * torch.tensor(self.DEVIATION).view(1, 3, 1, 1))
        self.features = nn.Sequential(
            nn.Conv2d(3, 96, 7, 2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            *(Fire(96, 16, 64), Fire(128, 16, 64), Fire(128, 32, 128)),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            *(Fire(256, 32, 128), Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256)),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(512, 64, 256),
        )
        self.head = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images."""
        return self.head(self.features((x - self.mean) / self.deviation).mean((2, 3)))
