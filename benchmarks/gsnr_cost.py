"""What the mean and the mean square of the per-sample gradients cost, over a plain ERM step.

    python benchmarks/gsnr_cost.py [--rounds 9] [--threads 2] [--case NAME]

ERM is one forward and backward with the mean loss. Every other way ends with a mean and a mean
square for each parameter, of which the signal-to-noise ratio (GSNR) of the gradients is a function.
Peers are optional: ``pip install -c constraints.txt opacus backpack-for-pytorch`` (with
``--no-deps`` where their requirements do not fit: of their own dependencies, only ``opt_einsum``,
``einops`` and ``unfoldNd`` are imported here). What a peer cannot do is said in its row.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from importlib import import_module
from typing import Annotated, NamedTuple

import torch
import typer
from models import ViT, group_norm, mnist_cnn, resnet18
from timing import ALTERNATION, Way, header, measure, rows, write
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

import domaingrad as dg
from domaingrad.bench.models import mlp

NOTE = (
    "Opacus: `GradSampleModule`, then mean and mean square of `grad_sample`. BackPACK: "
    "`backpack(SumGradSquared())`. torch.func: `vmap(grad(...))`, then mean and mean square. "
    "BatchNorm is in evaluation mode, so that the samples do not mix."
)


class Case(NamedTuple):
    """A model with samples."""

    model: nn.Module
    x: Tensor
    y: Tensor


def cases() -> dict[str, Callable[[], Case]]:
    """Models with batches, by title."""
    return {
        "MLP 3×1024, 128": lambda: _case(mlp((784,), 10, (1024,) * 3), (784,), 128, 10),
        "MNIST CNN, 28², 64": lambda: _case(mnist_cnn(2), (2, 28, 28), 64, 2),
        "ViT, 64², 32": lambda: _case(ViT(7), (3, 64, 64), 32, 7),
        "ResNet-18, 64², 48": lambda: _case(_frozen(resnet18(7)), (3, 64, 64), 48, 7),
        "ResNet-18 with GroupNorm, 64², 48": lambda: _case(
            resnet18(7, group_norm), (3, 64, 64), 48, 7
        ),
    }


def _case(model: nn.Module, shape: tuple[int, ...], samples: int, classes: int) -> Case:
    return Case(model, torch.randn(samples, *shape), torch.randint(classes, (samples,)))


def _frozen(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


def erm(case: Case) -> Way:
    """One forward and backward."""
    return lambda: F.cross_entropy(case.model(case.x), case.y).backward()


def ours(case: Case) -> Way:
    """``dg.signal_to_noise``."""

    def losses(outputs: Tensor) -> Tensor:
        return F.cross_entropy(outputs, case.y, reduction="none")

    return lambda: [
        (statistics.mean, statistics.mean_square)
        for statistics in dg.signal_to_noise(case.model, case.x, losses).values()
    ]


def opacus(case: Case) -> Way:
    """Per-sample gradients by Opacus's hooks."""
    model: nn.Module | None = None

    def step() -> None:
        nonlocal model
        if model is None:
            package = import_module("opacus.grad_sample")
            model = package.GradSampleModule(deepcopy(case.model), loss_reduction="mean")
        F.cross_entropy(model(case.x), case.y).backward()
        for parameter in model.parameters():
            gradients: Tensor = parameter.grad_sample
            gradients.mean(0)
            gradients.square().mean(0)
        model.zero_grad()

    return step


def backpack(case: Case) -> Way:
    """The mean by the usual backward, the mean square by BackPACK's ``SumGradSquared``."""
    model: nn.Module | None = None

    def step() -> None:
        nonlocal model
        package, extensions = import_module("backpack"), import_module("backpack.extensions")
        if model is None:
            model = package.extend(deepcopy(case.model))
        with package.backpack(extensions.SumGradSquared()):
            F.cross_entropy(model(case.x), case.y).backward()
        unknown = {
            type(module).__name__
            for module in model.modules()
            for parameter in module.parameters(recurse=False)
            if not hasattr(parameter, "sum_grad_squared")
        }
        if unknown:
            raise NotImplementedError(f"SumGradSquared knows no {', '.join(sorted(unknown))}")
        for parameter in model.parameters():
            # The backward is of the mean loss, so each sample's gradient comes divided by N.
            parameter.sum_grad_squared.mul_(len(case.x))
            del parameter.sum_grad_squared
        model.zero_grad()

    return step


def functional(case: Case) -> Way:
    """Per-sample gradients by ``torch.func``."""
    parameters = {name: p.detach() for name, p in case.model.named_parameters()}
    buffers = dict(case.model.named_buffers())

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        outputs = functional_call(case.model, (parameters, buffers), (x.unsqueeze(0),))
        return F.cross_entropy(outputs, y.unsqueeze(0))

    per_sample = vmap(grad(loss), in_dims=(None, 0, 0))

    def step() -> None:
        for gradients in per_sample(parameters, case.x, case.y).values():
            gradients.mean(0)
            gradients.square().mean(0)

    return step


def main(
    rounds: Annotated[int, typer.Option(help="Rounds to take the median over.")] = 9,
    threads: Annotated[int, typer.Option(help="Threads for PyTorch.")] = 2,
    case: Annotated[str, typer.Option(help="Only cases whose title holds this.")] = "",
) -> None:
    """Measure, print the table, and write it to benchmarks/results (unless for one case)."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    table = header("ERM")
    for title, make in cases().items():
        if case not in title:
            continue
        one = make()
        ways = {
            "ERM": erm(one),
            "dg.signal_to_noise": ours(one),
            "Opacus": opacus(one),
            "BackPACK": backpack(one),
            "torch.func": functional(one),
        }
        table += rows(title, measure(ways, rounds, title, before=one.model.zero_grad))
    write(
        None if case else "gsnr_cost",
        "Cost of per-sample gradient statistics",
        f"python benchmarks/gsnr_cost.py --rounds {rounds} --threads {threads}",
        [f"{NOTE} {ALTERNATION}", "\n".join(table)],
    )


if __name__ == "__main__":
    typer.run(main)
