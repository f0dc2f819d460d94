"""Steps per second of `domaingrad train`'s loop, against a loop of DomainBed's shape.

    python benchmarks/training_speed.py DIR [--rounds 9] [--steps 5] [--threads 2]

DIR holds MNIST's idx files. ColoredMNIST, the MNIST CNN, two sources of 64 samples a step, Adam;
no evaluation. The peer is our own short version of DomainBed's way: a ``DataLoader`` a domain that
draws single samples with replacement, one forward pass, for a mask one backward pass a domain
through the retained graph, the gradients stacked, Adam as it comes. It runs once with its loaders
in the main process and once with two worker processes, and the faster one counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer
from timing import ALTERNATION, Way, header, measure, rows, write
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn import functional as F
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from domaingrad.bench.domains import DomainData, News, Training, load
from domaingrad.bench.methods import METHODS
from domaingrad.bench.models import Network, build
from domaingrad.bench.runs.launching import PlainCPU
from domaingrad.bench.runs.ranks import Ranks
from domaingrad.bench.runs.trainer import DeviceContext, Splits, Trainer

HELD_OUT, BATCH = "-90%", 64
TAU, K = 0.5, 10.0
"""SAND-mask's, as the library has them; AND-mask's threshold is 1."""
RULES = ("erm", "and-mask", "sand-mask")
TRAINING = Training(
    steps=10**9, batch=BATCH, learning_rate=1e-3, weight_decay=0.0, schedule="constant",
    checkpoints=1,
)  # fmt: skip


class Ours(NamedTuple):
    """The loop that is measured, and its steps."""

    trainer: Trainer
    run: Way


def ours(data: DomainData, splits: Splits, method: str, steps: int) -> Ours:
    """The loop of the library."""
    torch.manual_seed(0)
    model = build("mnist-cnn", splits.preparation.shape, data.outputs)
    context = DeviceContext(Ranks(PlainCPU), GradScaler("cpu", enabled=False))
    network = Network(model, splits.preparation.shape)
    method_of = METHODS[method]
    trainer = Trainer(data, splits, network, method_of, TRAINING, ("speed",), context)

    def run() -> None:
        for _ in range(steps):
            trainer.step()

    return Ours(trainer, run)


def and_mask(gradients: Tensor) -> Tensor:
    """DomainBed's arithmetic."""
    mask = (gradients.sign().mean(0).abs() >= 1.0).float()
    return mask * gradients.mean(0) / (1e-10 + mask.mean())


def sand_mask(gradients: Tensor) -> Tensor:
    """DomainBed's arithmetic."""
    agreement = gradients.sign().mean(0).abs() - TAU
    mask = (K * agreement / gradients.var(0)).tanh().clamp(min=0)
    return mask * gradients.mean(0) / (1e-10 + mask.mean())


MASKS: dict[str, Callable[[Tensor], Tensor]] = {"and-mask": and_mask, "sand-mask": sand_mask}


def peer(data: DomainData, splits: Splits, method: str, steps: int, workers: int) -> Way:
    """The loop of DomainBed's shape."""
    torch.manual_seed(0)
    model = build("mnist-cnn", splits.preparation.shape, data.outputs)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=0.0)
    loaders = zip(
        *(endless(split.data, split.train, workers) for split in splits.sources.values()),
        strict=True,
    )

    def run() -> None:
        for _ in range(steps):
            batches = next(loaders)
            outputs = model(torch.cat([x for x, _ in batches]))
            parts_of = outputs.split([len(y) for _, y in batches])
            losses = [F.cross_entropy(o, y) for o, (_, y) in zip(parts_of, batches, strict=True)]
            optimiser.zero_grad()
            if method == "erm":
                (sum(losses) / len(losses)).backward()
            else:
                leave_masked(model, losses, MASKS[method])
            optimiser.step()
            sum(losses).item()

    return run


def leave_masked(model: nn.Module, losses: list[Tensor], mask: Callable[[Tensor], Tensor]) -> None:
    """One backward pass a domain, and the mask on the stacked gradients."""
    parameters = list(model.parameters())
    each = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses]
    for parameter, *gradients in zip(parameters, *each, strict=True):
        parameter.grad = mask(torch.stack(gradients))


def endless(data: TensorDataset, rows_: Tensor, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end, of float images as DomainBed keeps them."""
    inputs, labels = (tensor[rows_] for tensor in data.tensors)
    floats = TensorDataset(inputs.float() / 255, labels)
    sampler = RandomSampler(floats, replacement=True, num_samples=10**7)
    loader = DataLoader(
        floats, BATCH, sampler=sampler, num_workers=workers, drop_last=True,
        persistent_workers=workers > 0,
    )  # fmt: skip
    while True:
        yield from loader


def main(
    folder: Annotated[Path, typer.Argument(help="MNIST's idx files.")],
    rounds: Annotated[int, typer.Option(help="Rounds to take the median over.")] = 9,
    steps: Annotated[int, typer.Option(help="Steps in each.")] = 5,
    threads: Annotated[int, typer.Option(help="Threads for PyTorch.")] = 2,
) -> None:
    """Measure, print the table, and write it to benchmarks/results."""
    torch.set_num_threads(threads)
    data = load(f"colored-mnist:{folder}", {}, News(), torch.Generator())
    splits = Splits.of(data, HELD_OUT, ("speed",))
    table, shares = header("ours"), []
    for method in RULES:
        own = ours(data, splits, method, steps)
        ways = {
            "domaingrad": own.run,
            "DomainBed's way, no workers": peer(data, splits, method, steps, 0),
            "DomainBed's way, 2 workers": peer(data, splits, method, steps, 2),
        }
        timings = measure(ways, rounds, method, before=lambda: None)
        spent = sum(timings["domaingrad"].seconds)
        before = own.trainer.data_time
        own.run()
        share = (own.trainer.data_time - before) / (spent / len(timings["domaingrad"].seconds))
        for timing in timings.values():
            timing.seconds = [seconds / steps for seconds in timing.seconds]
        table += rows(method, timings)
        speed = {name: 1 / timing.median for name, timing in timings.items()}
        best = min(t.ratio for name, t in timings.items() if name != "domaingrad")
        shares.append(
            f"| {method} | {speed['domaingrad']:.2f} | {best:.2f} | {100 * share:.2f} % |"
        )
    write(
        "training_speed",
        "Speed of training",
        f"python benchmarks/training_speed.py DIR --rounds {rounds} --steps {steps} "
        f"--threads {threads}",
        [
            f"ColoredMNIST, MNIST CNN, 2 sources × {BATCH} samples, Adam, no evaluation; times are "
            f"for one step. {ALTERNATION}",
            "\n".join(table),
            "Steps per second, how many times those of the faster peer, and the share of a step "
            "that is spent on getting its batches ready:",
            "\n".join(["| method | steps/s | × peer | waiting |", "|---|---|---|---|", *shares]),
        ],
    )


if __name__ == "__main__":
    typer.run(main)
