"""The linear toy: four coordinates that each help one domain, one that helps all a little."""

from __future__ import annotations

import torch
from torch import Generator
from torch.utils.data import TensorDataset

from domaingrad.bench.models import Architecture

from .base import DataSet
from .data import Domains
from .recipes import Recipe

DOMAINS = 4
SAMPLES = 64
TEST_SAMPLES = 1000
SCALE = 3.0
SHARED = 0.1
HELD_OUT = "noise"
SOURCES = tuple(f"coordinate-{i}" for i in range(1, DOMAINS + 1))


def make_linear_toy(generator: Generator) -> Domains:
    """Draw the signs of the samples; ours: both signs, and the held-out domain.

    Domain k of the authors' notebook has the one sample x = 3·[e_k | 0.1], y = 1. Here a sample is
    that or its negative with y = −1, which has the same gradient. Held out, the four coordinates
    are N(0, 3²) noise, so only the shared one tells the label.
    """
    domains = {}
    for k, name in enumerate(SOURCES):
        y = torch.randint(0, 2, (SAMPLES,), generator=generator) * 2.0 - 1.0
        x = torch.zeros(SAMPLES, DOMAINS + 1)
        x[:, k] = SCALE * y
        x[:, -1] = SCALE * SHARED * y
        domains[name] = TensorDataset(x, y)
    y = torch.randint(0, 2, (TEST_SAMPLES,), generator=generator) * 2.0 - 1.0
    x = SCALE * torch.randn(TEST_SAMPLES, DOMAINS + 1, generator=generator)
    x[:, -1] = SCALE * SHARED * y
    domains[HELD_OUT] = TensorDataset(x, y)
    return domains


LINEAR_TOY = DataSet(
    name="linear-toy",
    summary="A linear regression in which four coordinates each serve one domain and the fifth, "
    "ten times smaller, serves all; held out, the four are noise.",
    source="notebook of Parascandolo et al., arXiv 2009.00329; the held-out domain is ours",
    make=make_linear_toy,
    sources=SOURCES,
    held_out=(HELD_OUT,),
    recipe=Recipe(
        backbone=Architecture("linear", {"bias": False}),
        steps=1000,
        batch=SAMPLES,
        learning_rate=0.1,
        weight_decay=0.01,
        chosen="a third of the notebook's learning rate, at which methods that sum the gradients "
        "do not diverge, and coupled weight decay",
        optimizer="sgd",
        schedule="exponential",
    ),
    task="signed-regression",
)
