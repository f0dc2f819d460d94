"""Every rule with every setting that changes its equation, made anew with a fixed seed."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from domaingrad.engine.blocks import Block, Part, Runner
from domaingrad.rules import AgrRand, AgrSum, ANDMask, Mean, PCGrad, Rule, SANDMask


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


VARIANTS: dict[str, Callable[[], Rule]] = {
    "mean": Mean,
    "and": lambda: ANDMask(tau=1.0, rescale=False),
    "and-0.6": lambda: ANDMask(tau=0.6, rescale=False),
    "and-rescaled": lambda: ANDMask(tau=1.0, rescale=True),
    "and-geometric": lambda: ANDMask(tau=1.0, rescale=False, average="geometric"),
    "and-geometric-rescaled": lambda: ANDMask(tau=1.0, rescale=True, average="geometric"),
    "sand-absolute": lambda: SANDMask(tau=0.5, k=10.0),
    "sand-relative": lambda: SANDMask(tau=0.5, k=10.0, variance="relative"),
    "agr-sum": AgrSum,
    "agr-rand": lambda: AgrRand(seeded()),
    "agr-rand-silent": lambda: AgrRand(seeded(), noise_where_silent=True),
    "pcgrad": lambda: PCGrad(seeded()),
}


def of_model(rule: Rule, stacks: Sequence[Tensor]) -> list[Tensor]:
    """The updates of tensors of one model, from their stacked gradients, in a block."""
    flat = torch.cat([stack.flatten(1) for stack in stacks], 1)
    block = Block([Part(i, stack[0].numel()) for i, stack in enumerate(stacks)], flat)
    runner = Runner(rule, None, None, "eager")
    runner.take(block)
    runner.finish()
    return [update.view(stacks[index].shape[1:]) for index, update in block]
