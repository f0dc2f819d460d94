"""The plan of a comparison: which runs it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from domaingrad.bench.domains import DATA_SETS
from domaingrad.bench.methods import ALL_METHODS
from domaingrad.bench.names import look_up

from .run import RunConfig, code_fingerprint


@dataclass(frozen=True)
class Comparison:
    """What is compared, and the runs that it takes."""

    data: tuple[str, ...]
    methods: tuple[str, ...]
    trials: int
    seed: int
    runs: tuple[RunConfig, ...]


def plan(
    data: Sequence[str], methods: Sequence[str], trials: int, seed: int, steps: int | None = None
) -> Comparison:
    """Every method on every data set with every domain held out in turn, ``trials`` times.

    Trial by trial, so that an interrupted comparison is even.

    Args:
        data: names of data sets.
        methods: names of methods.
        trials: repetitions with fresh data, splits, initialisation and batches.
        seed: from which, with the names, all seeds derive.
        steps: steps of training instead of each data set's own number.

    Raises:
        UnknownNameError: a name in no list.
        ValueError: no trial or no step.
    """
    for count, what in ((trials, "trials"), (1 if steps is None else steps, "steps")):
        if count < 1:
            raise ValueError(f"{what} must be at least 1; found {count}.")
    data, methods = tuple(dict.fromkeys(data)), tuple(dict.fromkeys(methods))
    runs = []
    for trial in range(trials):
        for data_name in data:
            data_set = look_up("data set", data_name, DATA_SETS)
            for held_out in data_set.held_out:
                for method_name in methods:
                    method = look_up("method", method_name, ALL_METHODS)
                    runs.append(
                        RunConfig(
                            data=data_set.name,
                            method=method.name,
                            held_out=held_out,
                            trial=trial,
                            seed=seed,
                            steps=data_set.recipe.steps if steps is None else steps,
                            hyperparameters=method.hyperparameters(),
                            recipe=data_set.recipe.described(),
                            code=code_fingerprint(),
                        )
                    )
    return Comparison(data, methods, trials, seed, tuple(runs))
