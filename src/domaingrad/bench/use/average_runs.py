"""The average of the weights that a sweep's draws have come to: DiWA."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from domaingrad.bench.disk import RunDirectoryError
from domaingrad.bench.domains import News
from domaingrad.bench.runs import PlannedRun, SweepDirectory
from domaingrad.bench.runs.directory import RunDirectory
from domaingrad.bench.runs.trained import read_model

from .evaluation import Evaluation, evaluation_of
from .run_parts import model_of_run


@dataclass(frozen=True)
class AveragedRuns:
    """A model whose weights are the mean of those of several draws."""

    data: str
    method: str
    held_out: str
    trial: int
    draws: int
    """How many were averaged."""
    evaluation: Evaluation


def average_runs(sweep: str | Path, news: News | None = None) -> list[AveragedRuns]:
    """Average the weights of the draws of each method, held-out domain and trial, and evaluate.

    θ = (1/H) Σ_h θ_h over H draws of the hyper-parameters: the uniform average of DiWA (Ramé et
    al., arXiv 2205.09739). θ_h is what draw h selected by source validation. All draws of a trial
    begin at the same weights, as the average asks for; ours: whether the head was fitted first is
    the sweep's choice (``lp_ft``), and running statistics are averaged, too.

    Args:
        sweep: its directory, with the models kept.
        news: who hears of decoding.

    Raises:
        RunDirectoryError: there is no sweep, or no two draws that are finished, with models of the
            same architecture.
    """
    directory = SweepDirectory.existing(Path(sweep))
    together: dict[tuple[str, str, str, int], list[PlannedRun]] = {}
    for run in directory.plan().runs:
        if len(run.config.held_out) == 1 and directory.finished(run.key):
            key = run.data, run.config.method, run.config.held_out[0], run.config.trial
            if RunDirectory(directory.place(run.key)).model.is_file():
                together.setdefault(key, []).append(run)
    found = [
        AveragedRuns(*key, len(runs), _averaged(directory, runs, news or News()))
        for key, runs in together.items()
        if len(runs) > 1
    ]
    if not found:
        raise RunDirectoryError(
            f"{sweep} has no two draws of a method that are finished and have kept their models; "
            f"sweep with draws of 2 or more and keep_models."
        )
    return found


def _averaged(directory: SweepDirectory, runs: Iterable[PlannedRun], news: News) -> Evaluation:
    places = [RunDirectory(directory.place(run.key)) for run in runs]
    trained = model_of_run(places[0])
    every = [read_model(place.model)[1] for place in places]
    if any(_shapes(each) != _shapes(every[0]) for each in every):
        raise RunDirectoryError(
            f"{places[0].path} and other draws beside it have models of different shapes, which "
            f"have no average; sweep one architecture."
        )
    trained.put({name: _mean([each[name] for each in every]) for name in every[0]})
    return evaluation_of(trained, places[0], news)


def _shapes(weights: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in weights.items()}


def _mean(tensors: list[Tensor]) -> Tensor:
    """In double precision; counts are those of the first."""
    if not tensors[0].is_floating_point():
        return tensors[0]
    return torch.stack(tensors).double().mean(0).to(tensors[0].dtype)
