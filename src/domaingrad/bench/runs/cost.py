"""What a sweep will take: time, from a few steps of each kind of run, and disk."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from domaingrad.bench.domains import DomainData, News

from .averaging import COPIES
from .interrupts import interrupted_after
from .isolation import isolated
from .plan import Bundle, PlannedRun
from .resumable import begin
from .stacked import Stack

WARM_UP, FEWEST, SECONDS = 2, 3, 1.0
"""Steps that are not timed; the fewest that are, and for how long at most."""
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


@dataclass
class _Speed:
    """Seconds: of a sample in a step, by data and method; of what does not depend on the method."""

    sample: dict[tuple[str, str], float] = field(default_factory=dict)
    evaluation: dict[str, float] = field(default_factory=dict)
    beginning: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    """Bytes of a model, by data."""

    def measure(self, bundle: Bundle, data: DomainData) -> None:
        """Take a few steps, and evaluate once on each data set."""
        began = time.perf_counter()
        run = bundle.runs[0]
        # More steps than are taken, since a schedule ends with its last.
        trainers = [begin(replace(each.config, steps=MANY), data).trainer for each in bundle.runs]
        self.beginning[run.data] = (time.perf_counter() - began) / len(trainers)
        trainer = trainers[0]
        step = Stack(trainers).step if bundle.together else trainer.step
        for _ in range(WARM_UP):
            step()
        enough = max(FEWEST, run.config.steps or 0)  # more than the run has say no more of it
        steps, began = 0, time.perf_counter()
        while steps < FEWEST or (steps < enough and time.perf_counter() - began < SECONDS):
            step()
            steps += 1
        taken = (time.perf_counter() - began) / steps
        samples = sum(each.config.batch or 1 for each in bundle.runs)
        self.sample[run.data, run.config.method] = taken / samples
        if run.data not in self.evaluation:
            began = time.perf_counter()
            trainer.checkpoint()
            self.evaluation[run.data] = time.perf_counter() - began
            tensors = trainer.network.state_dict().values()
            self.sizes[run.data] = sum(t.numel() * t.element_size() for t in tensors)

    def seconds(self, run: PlannedRun) -> float:
        """Estimate for a run; 0 where its method could not be measured."""
        steps, batch = run.config.steps or 0, run.config.batch or 1
        return (
            self.beginning.get(run.data, 0.0)
            + steps * batch * self.sample.get((run.data, run.config.method), 0.0)
            + min(steps, run.config.checkpoints or 0) * self.evaluation.get(run.data, 0.0)
        )


def measure(
    bundles: Sequence[Bundle], data: Mapping[str, DomainData], keep_models: bool, news: News
) -> Cost:
    """Take a few steps of each method on each data set, and one evaluation, on one thread.

    A step is taken to last in proportion to the samples in it. What cannot be measured is told,
    and left to its runs, unless nothing can.

    Args:
        bundles: what is to be done; runs that train together, or one alone.
        data: the data by name.
        keep_models: whether the models stay.
        news: who hears of the measuring.

    Raises:
        Exception: what the first kind of run has died of, if all have.
    """
    speed, failed = _Speed(), []
    runs = [run for bundle in bundles for run in bundle.runs]
    kinds = {(each.runs[0].data, each.runs[0].config.method): each for each in reversed(bundles)}
    for done, bundle in enumerate(reversed(kinds.values())):
        run = bundle.runs[0]
        news.advance("measuring speed", done, len(kinds))
        try:
            with interrupted_after(), isolated(0, threads=1), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the runs themselves will warn
                speed.measure(bundle, data[run.data])
        except Exception as error:  # noqa: BLE001 - the runs themselves will tell more
            failed.append(error)
            text = next(iter(str(error).splitlines()), type(error).__name__)
            news.say(f"Warning: {run.config.method} on {run.data} cannot be measured: {text}")
    if failed and len(failed) == len(kinds):
        raise failed[0]
    models = sum(speed.sizes.get(run.data, 0) for run in runs) if keep_models else 0
    # The model, its two moments in Adam, the selected one, and that again as a file of its own.
    copies = 5 + max((COPIES[run.config.average] for run in runs), default=0)
    meanwhile = copies * max(speed.sizes.values(), default=0)
    seconds = sum(speed.seconds(run) for run in runs)
    return Cost(seconds, RECORDS_BYTES * len(runs) + models, meanwhile)
