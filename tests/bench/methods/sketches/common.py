"""What several sketches share."""

import torch
from torch import nn

from domaingrad.bench.methods import MethodInfo


def info(name, title, paper):
    return MethodInfo(
        name=name, title=title, summary=f"a sketch of {title}", paper=f"arXiv {paper}"
    )


def risks(setup, outputs, labels):
    """Mean loss of each domain, shape [K]."""
    return torch.stack([setup.loss(o, y).mean() for o, y in zip(outputs, labels, strict=True)])


def perceptron(inputs, outputs, width, depth):
    layers = [nn.Linear(inputs, width), nn.ReLU()]
    for _ in range(depth - 2):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def interpolate(module, other, share):
    """module ← module + share · (other − module), buffers too."""
    with torch.no_grad():
        for own, its in zip(module.state_dict().values(), other.state_dict().values(), strict=True):
            if own.is_floating_point():
                own.lerp_(its, share)
            else:
                own.copy_(its)
