"""What the rules alone cost on stacked gradients [K, P], against memory bandwidth and peers.

    python benchmarks/reduction.py [--rounds 9] [--threads 2]

Element-wise rules: the engine's reduction (``eager`` and ``compiled`` kernels), with its scale,
against the operations of DomainBed (AND-mask, SAND-mask) or of the authors (Agr-Sum, Agr-Rand) on
separate gradients. The reference is a copy that moves the same bytes as an ideal reduction, which
reads K · P numbers and writes P. Gramian rules: on ten gradients of the size of ResNet-18, against
loops over vectors and TorchJD; the reference is an ERM step of ResNet-18 on 48 images of 64².
``pip install -c constraints.txt torchjd`` for the peer.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import torch
import typer
from models import resnet18
from steps import and_mask_as_domainbed, batch, erm
from timing import ALTERNATION, Way, header, measure, rows, write
from torch import Tensor

import domaingrad as dg
from domaingrad.engine.blocks import Block, Kernels, Part, Runner
from domaingrad.rules import from_torchjd
from domaingrad.rules.authoring import ElementwiseRule

LARGEST = 512 * 512 * 9
"""Components of the largest layer of ResNet-18."""
WHOLE = sum(p.numel() for p in resnet18(7).parameters())

NOTE = (
    "Times are for [K, P] float32 gradients that were just written. × copy: over a copy that moves "
    "(K + 1) · P numbers, half of them read and half written. The stack is filled anew before "
    "each call, untimed, because the reduction may overwrite it."
)


def sand_mask_as_domainbed(gradients: Sequence[Tensor], tau: float = 0.5, k: float = 10) -> Tensor:
    """DomainBed's SAND-mask, operation by operation."""
    stacked = torch.stack(list(gradients))
    mean, signs, variance = stacked.mean(0), stacked.sign(), stacked.var(0)
    variance[variance.isnan()] = 1e-17
    mask = torch.tanh(k * variance.pow(-1) * (signs.mean(0).abs() - tau))
    mask = torch.max(mask, torch.zeros_like(mask))
    mask[mask.isnan()] = 1e-17
    update = mask * mean
    update *= 1.0 / (1e-10 + mask.sum() / mask.numel())
    return update


def agr_sum_as_authors(gradients: Sequence[Tensor]) -> Tensor:
    """Agr-Sum of Mansilla et al., operation by operation."""
    stacked = torch.stack(list(gradients))
    agree = stacked.sign().sum(0).abs() == len(stacked)
    return stacked.sum(0) * agree


def agr_rand_as_authors(gradients: Sequence[Tensor]) -> Tensor:
    """Agr-Rand of Mansilla et al., operation by operation."""
    stacked = torch.stack(list(gradients))
    agree = stacked.sign().sum(0).abs() == len(stacked)
    update = stacked.sum(0)
    noise = torch.randn_like(update) * update[agree].abs().mean()
    return torch.where(agree, update, noise)


RULES: dict[str, ElementwiseRule] = {
    "AND-mask": dg.ANDMask(),
    "SAND-mask": dg.SANDMask(),
    "Agr-Sum": dg.AgrSum(),
    "Agr-Rand": dg.AgrRand(),
    "Mean": dg.Mean(),
}
OPERATIONS = {
    "AND-mask, DomainBed's operations": and_mask_as_domainbed,
    "SAND-mask, DomainBed's operations": sand_mask_as_domainbed,
    "Agr-Sum, the authors' operations": agr_sum_as_authors,
    "Agr-Rand, the authors' operations": agr_rand_as_authors,
    "Mean, stack and mean": lambda gradients: torch.stack(list(gradients)).mean(0),
}


def reduced(rule: ElementwiseRule, kernels: Kernels, stack: Tensor) -> Way:
    """The engine's way from a block to the update."""

    def way() -> Tensor:
        runner = Runner(rule, None, None, kernels)
        block = Block([Part(0, stack.shape[1])], stack)
        runner.take(block)
        runner.finish()
        assert block.update is not None
        return block.update

    return way


def elementwise(count: int, components: int, rounds: int, title: str) -> list[str]:
    """Rows for the element-wise rules."""
    source = torch.randn(count, components)
    stack = torch.empty_like(source)
    half = stack.view(-1)[: (count + 1) * components // 2]
    target = torch.empty_like(half)
    ways: dict[str, Way] = {"copy of the same bytes": lambda: target.copy_(half)}
    for name, rule in RULES.items():
        ways[f"{name}, eager"] = reduced(rule, "eager", stack)
        ways[f"{name}, compiled"] = reduced(rule, "compiled", stack)
    for name, operations in OPERATIONS.items():
        ways[name] = lambda operations=operations: operations(stack.unbind(0))
    # Only a way of ten copies is slow here: the fast ones decide how long a round takes.
    timings = measure(ways, rounds, title, before=lambda: stack.copy_(source), slow=15)
    return rows(title, timings)


def pcgrad_by_vectors(gradients: Tensor, generator: torch.Generator) -> Tensor:
    """PCGrad by its definition, loops over vectors of the model's size."""
    projected = gradients.clone()
    for i in range(len(gradients)):
        for j in torch.randperm(len(gradients), generator=generator).tolist():
            product = projected[i] @ gradients[j]
            if j != i and product < 0:
                projected[i] -= product / gradients[j].square().sum() * gradients[j]
    return projected.sum(0)


def gramian(count: int, rounds: int, title: str) -> list[str]:
    """Rows for the Gramian rules."""
    step = batch(resnet18(7), (3, 64, 64), 3, 48, 7)
    gradients = torch.randn(count, WHOLE)
    pcgrad, generator = dg.PCGrad(), torch.Generator().manual_seed(0)

    def peer(name: str) -> Way:
        return lambda: getattr(import_module("torchjd.aggregation"), name)()(gradients)

    def upgrad() -> Tensor:
        return from_torchjd(import_module("torchjd.aggregation").UPGradWeighting())(gradients)

    ways: dict[str, Way] = {
        "ERM step, 48 images": erm(step),
        "PCGrad, dg.PCGrad()": lambda: pcgrad(gradients),
        "PCGrad, TorchJD": peer("PCGrad"),
        "PCGrad, loops over vectors": lambda: pcgrad_by_vectors(gradients, generator),
        "UPGrad, dg.rules.from_torchjd": upgrad,
        "UPGrad, TorchJD": peer("UPGrad"),
    }
    return rows(title, measure(ways, rounds, title, before=step.clear))


def main(
    rounds: Annotated[int, typer.Option(help="Rounds to take the median over.")] = 9,
    threads: Annotated[int, typer.Option(help="Threads for PyTorch.")] = 2,
    case: Annotated[str, typer.Option(help="Only cases whose title holds this.")] = "",
) -> None:
    """Measure, print the tables, and write them to benchmarks/results (unless for one case)."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    table = header("copy")
    for size, components in (("largest layer", LARGEST), ("whole", WHOLE)):
        for count in (3, 10, 20):
            title = f"ResNet-18, {size}, K = {count}"
            if case in title:
                table += elementwise(count, components, rounds, title)
    combined = header("ERM step")
    if case in (title := "Gramian rules, ResNet-18, whole, K = 10"):
        combined += gramian(10, rounds, title)
    write(
        None if case else "reduction",
        "Cost of the rules alone",
        f"python benchmarks/reduction.py --rounds {rounds} --threads {threads}",
        [f"{NOTE} {ALTERNATION}", "\n".join(table), "\n".join(combined)],
    )


if __name__ == "__main__":
    typer.run(main)
