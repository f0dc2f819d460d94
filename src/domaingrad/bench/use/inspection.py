"""Where the source domains of a trained model conflict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from domaingrad.bench.domains import DataError, News, losses
from domaingrad.bench.protocol import draw, generator_of
from domaingrad.bench.runs.directory import RunDirectory
from domaingrad.bench.runs.trained import TrainedModel
from domaingrad.engine import signal_to_noise
from domaingrad.inspect import Conflict, Similarity, conflict, similarity

from .run_parts import directory_of, model_of_run, parts_of_run


@dataclass(frozen=True)
class Inspection:
    """One look at a trained model, on samples of its sources' training splits."""

    domains: tuple[str, ...]
    samples: int
    """Of each domain."""
    conflict: Conflict
    similarity: Similarity | None
    """``None`` where the samples hold too few of a class, or labels are numbers."""
    gsnr: Mapping[str, float]
    """By layer: mean over its components of the gradient signal-to-noise ratio over samples."""
    floor: float
    """What GSNR is on average for pure noise, 1/(n − 3) of n samples."""


def inspect(
    run: str | Path | RunDirectory, samples: int = 64, seed: int = 0, news: News | None = None
) -> Inspection:
    """Look at the gradients of the source domains, at the selected model in evaluation mode.

    Args:
        run: its directory; it has come to its first checkpoint.
        samples: of each source, drawn with replacement from its training split.
        seed: from which the samples and the intervals are drawn.
        news: who hears of decoding.

    Raises:
        RunDirectoryError: there is no run, or no model yet.
        DataError: one source only, data that have changed, too few samples.
    """
    if samples < 4:
        raise DataError(f"samples must be at least 4; found {samples}.")
    directory = directory_of(run)
    trained = model_of_run(directory)
    if not any(p.requires_grad for p in trained.network.parameters()):
        raise DataError(
            f"the model of {directory.path} ({trained.architecture}) has no gradients to inspect; "
            f"inspect a network's run."
        )
    _, parts = parts_of_run(directory, trained, news or News())
    names = tuple(parts.sources)
    if len(names) < 2:
        raise DataError(f"a conflict is between domains; this run has one source, {names[0]}.")
    generator = generator_of(seed, "inspection")
    drawn = [draw(split, samples, generator) for split in parts.sources.values()]
    inputs = parts.preparation(torch.cat([stored for stored, _ in drawn]))
    labels = torch.cat([each for _, each in drawn])
    domain = torch.arange(len(names)).repeat_interleave(samples)

    def loss(outputs: Tensor) -> Tensor:
        return losses(trained.task, outputs, parts.target.scaled(labels))

    found = conflict(trained.network, inputs, loss, domain)
    if not found.gram.isfinite().all():
        raise DataError(
            f"the gradients at the model of {directory.path} are not finite: its training has "
            f"diverged. Inspect another run."
        )
    moments = signal_to_noise(trained.network, inputs, loss)
    layers: dict[str, list[Tensor]] = {}
    for name, moment in moments.items():
        ratios = moment.gsnr[moment.mean_square > 0]
        plain = trained.network.plain_name(name)
        layers.setdefault(plain.rpartition(".")[0] or plain, []).append(ratios)
    return Inspection(
        domains=names,
        samples=samples,
        conflict=replace(
            found,
            layers={trained.network.plain_name(name): each for name, each in found.layers.items()},
        ),
        similarity=_similarity(trained, inputs, labels, domain, generator)
        if trained.task == "classification"
        else None,
        gsnr={layer: torch.cat(found_there).mean().item() for layer, found_there in layers.items()},
        floor=1 / (len(labels) - 3),
    )


def _similarity(
    trained: TrainedModel,
    inputs: Tensor,
    labels: Tensor,
    domain: Tensor,
    generator: torch.Generator,
) -> Similarity | None:
    """Of the classes that each domain has at least four samples of, two for each batch."""
    classes = len(trained.classes)
    counts = torch.stack(
        [
            torch.bincount(labels[domain == e], minlength=classes)
            for e in range(int(domain.max()) + 1)
        ]
    )
    common = (counts >= 4).all(0).nonzero().flatten()
    rows = torch.isin(labels, common)
    if not rows.any():
        return None
    kept = labels[rows]
    return similarity(
        trained.network,
        inputs[rows],
        lambda outputs: losses(trained.task, outputs, kept),
        domain[rows],
        kept,
        generator=generator,
    )
