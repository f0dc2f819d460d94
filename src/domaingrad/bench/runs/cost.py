"""What a sweep will take: time, from a few steps of each kind of run, and disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from domaingrad.bench.domains import DomainData

from .isolation import isolated
from .plan import PlannedRun
from .training import fit_of

WARM_UP, FEWEST, SECONDS = 2, 3, 1.0
"""Steps that are not timed; the fewest that are, and for how long."""
MANY = 10**9
RECORDS_BYTES = 4096
"""About what the settings and records of a run take."""


@dataclass(frozen=True)
class Cost:
    """Estimates."""

    seconds: float
    """Of all runs, one after the other."""
    kept: int
    """Bytes on disk at the end."""
    meanwhile: int
    """Bytes that each run under way takes beside that."""


def measure(
    runs: Sequence[PlannedRun],
    data: Mapping[str, DomainData],
    keep_models: bool,
    advance: Callable[[str, int, int], None],
) -> Cost:
    """Take a few steps of each method on each data set, and one evaluation, on one thread.

    A step is taken to last in proportion to the samples in it.

    Args:
        runs: what is to be done.
        data: the data by name.
        keep_models: whether the models stay.
        advance: who hears of the measuring: what, how many done, of how many.
    """
    kinds = list(dict.fromkeys((run.data, run.config.method) for run in runs))
    per_sample: dict[tuple[str, str], float] = {}
    evaluation: dict[str, float] = {}
    beginning: dict[str, float] = {}
    sizes: dict[str, int] = {}
    for done, kind in enumerate(kinds):
        advance("measuring speed", done, len(kinds))
        run = next(run for run in runs if (run.data, run.config.method) == kind)
        with isolated(0, threads=1):
            began = time.perf_counter()
            # More steps than are taken, since a schedule ends with its last.
            fit = fit_of(replace(run.config, steps=MANY), data[run.data])
            # A run is tried out before it is begun.
            beginning[run.data] = 2 * (time.perf_counter() - began)
            for _ in range(WARM_UP):
                fit.advance()
            steps, began = 0, time.perf_counter()
            while steps < FEWEST or time.perf_counter() - began < SECONDS:
                fit.advance()
                steps += 1
            per_sample[kind] = (time.perf_counter() - began) / steps / (run.config.batch or 1)
            if run.data not in evaluation:
                began = time.perf_counter()
                fit.checkpoint()
                evaluation[run.data] = time.perf_counter() - began
                sizes[run.data] = sum(
                    tensor.numel() * tensor.element_size()
                    for tensor in fit.model.state_dict().values()
                )
    seconds = 0.0
    for run in runs:
        steps, batch = run.config.steps or 0, run.config.batch or 1
        seconds += beginning[run.data] + steps * batch * per_sample[run.data, run.config.method]
        seconds += min(steps, run.config.checkpoints or 0) * evaluation[run.data]
    models = sum(sizes[run.data] for run in runs) if keep_models else 0
    # The model, its two moments in Adam, the selected one, and that again as a file of its own.
    return Cost(seconds, RECORDS_BYTES * len(runs) + models, 5 * max(sizes.values(), default=0))
