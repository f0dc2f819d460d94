"""ARM."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from domaingrad.bench.domains import DataError
from domaingrad.bench.models import PREDICTORS, Network, Predictor

from .base import MethodInfo, Requires, TwoReadings
from .learner import Batches, Learner, pooled

WIDTH, IMAGE = 64, 3


class Widened(nn.Module):
    """A first layer that takes one channel more, or as many as before.

    The new channel's weights begin as those of the first one, as DomainBed's ResNets have it.

    Args:
        layer: a convolution, or a linear layer of flattened images.
        pixels: of a channel, for a linear layer.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear, pixels: int) -> None:
        super().__init__()
        self.layer = layer
        self.extra: nn.Module
        if isinstance(layer, nn.Conv2d):
            self.taken = layer.in_channels
            self.extra = nn.Conv2d(
                1, layer.out_channels, layer.kernel_size, layer.stride, layer.padding,  # type: ignore[arg-type]
                layer.dilation, bias=False,  # type: ignore[arg-type]
            )  # fmt: skip
            pixels = 1
        else:
            self.taken = layer.in_features
            self.extra = nn.Linear(pixels, layer.out_features, bias=False)
        with torch.no_grad():
            self.extra.weight.copy_(layer.weight[:, :pixels])

    def forward(self, x: Tensor) -> Tensor:
        """Of both parts, if both are there."""
        found: Tensor = self.layer(x[:, : self.taken])
        return found if x.shape[1] == self.taken else found + self.extra(x[:, self.taken :])


class WithContext(Predictor):
    """A network that sees, as one more channel, the mean context of the samples around.

    Predictions depend on the batch: each group of as many samples as a domain has in a training
    step shares a context; what is left over at the end of a batch is a group of its own, or, as
    published, makes the whole batch one group.

    Args:
        network: of images; its first layer is widened.
        groups: ``"in order"`` or ``"whole unless even"``.

    Raises:
        DataError: inputs that are no images, or a network whose first layer cannot be widened.
    """

    name = "arm"
    group: Tensor

    def __init__(self, network: Network, groups: str = "in order") -> None:
        super().__init__(network, groups=groups)
        if len(network.shape) != IMAGE:
            raise DataError(
                f"ARM makes a channel of context for images (channels, height, width); found "
                f"inputs of shape {network.shape}. Use another method, erm for a start."
            )
        channels, height, width = network.shape
        _widen(network.body, height * width)
        sizes = ((channels, WIDTH), (WIDTH, WIDTH))
        layers = [
            each
            for before, after in sizes
            for each in (nn.Conv2d(before, after, 5, padding=2), nn.BatchNorm2d(after), nn.ReLU())
        ]
        self.context = nn.Sequential(*layers, nn.Conv2d(WIDTH, 1, 5, padding=2))
        self.register_buffer("group", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs, shape [n, outputs]."""
        size = int(self.group) or len(x)
        if self.arguments["groups"] != "in order" and len(x) % size:
            size = len(x)
        return self.outputs(x, [min(size, len(x) - at) for at in range(0, len(x), size)])

    def outputs(self, x: Tensor, sizes: list[int]) -> Tensor:
        """Of groups of these sizes, one after the other."""
        parts: tuple[Tensor, ...] = self.context(x).split(sizes)
        around = torch.cat([part.mean(0, keepdim=True).expand_as(part) for part in parts])
        found: Tensor = self.network(torch.cat([x, around], 1))
        return found


PREDICTORS.add(WithContext.name, WithContext)


class ARMLearner(Learner["ARM"]):
    """In training a domain's samples are a group."""

    def build(self) -> None:
        """Context, trained or not."""
        groups = "whole unless even" if self.hp.as_published else "in order"
        self.model = WithContext(self.network, groups)
        self.model.context.requires_grad_(not self.hp.as_published)

    def objective(self, batches: Batches) -> Tensor:
        """The risk with context."""
        x, y, _ = pooled(batches)
        sizes = [len(own) for _, own in batches.values()]
        self.model.group.fill_(max(sizes))
        return self.total(risk=self.setup.loss(self.model.outputs(x, sizes), y).mean())

    def predictor(self) -> Predictor:
        """With the context of samples around."""
        return self.model


def _widen(body: nn.Module, pixels: int) -> None:
    for name, layer in body.named_modules():
        simple = isinstance(layer, nn.Linear) or (
            isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.padding_mode == "zeros"
        )
        if simple and name:
            body.set_submodule(name, Widened(layer, pixels))
            return
        if not any(layer.children()) and any(True for _ in layer.parameters()):
            break  # another kind of first layer
    raise DataError(
        "ARM widens a network's first layer, a plain convolution or a linear one; found none. Use "
        "another backbone or the method erm."
    )


@dataclass(frozen=True)
class ARM(TwoReadings):
    """R̄ of f([x; c]), c the mean over a domain's samples of a small convolutional network of x.

    arXiv 2007.02931 (contextual), as in DomainBed. As meant: the context is learned. As published
    (DomainBed): it is made after the optimizer and never trained. Evaluation is transductive;
    DomainBed's batches are of 8 on photographs.
    """

    meant = MethodInfo(
        name="arm",
        title="ARM",
        summary="a channel of context, learned from the batch; predictions depend on it",
        paper="arXiv 2007.02931",
        cost="1 pass, and one of three convolutions",
    )
    published = "ARM with a context that is never trained"
    requires = Requires(min_domains=1, features=True)
    code = ARMLearner
