"""Which runs of a sweep train together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import ceil, prod
from typing import Any, Literal

import torch

from domaingrad.bench.domains import DomainData, Preparation, is_drawn
from domaingrad.bench.domains.fetched import FetchedInputs
from domaingrad.bench.methods import Learner, RuleMethod
from domaingrad.rules import Rule

from .plan import Bundle, PlannedRun
from .settings import TrainConfig, architecture_of, method_of, training_of

Stacking = Literal["auto", "off"]
"""Whether runs train together where it pays."""

PERCEPTRONS = frozenset({"linear", "mlp"})
"""Backbones of linear layers and activations, whose runs train together on a CPU."""
ON_GPUS = PERCEPTRONS | {"mnist-cnn"}
"""Those whose runs do on a GPU."""
MOST = 64
"""Runs in a bundle."""
NUMBERS = 2**26
"""That the inputs, activations, gradients and moments of a bundle may have, roughly."""
OVERHEAD, FLOPS, GATHERED = 2e-3, 2e10, 1e9
"""Seconds of a step that do not depend on how many runs take it, operations and numbers of inputs
in a second, roughly: by these runs are divided, since a bundle is padded to its largest batch."""


def bundles_of(
    runs: Sequence[PlannedRun], data: Mapping[str, DomainData], jobs: int, stacking: Stacking
) -> tuple[list[Bundle], dict[str, int]]:
    """Runs that train together, or one alone; and why how many do.

    Together train runs of one method, architecture and kind of optimizer on data of one shape, with
    batches of about one size. There are as many bundles as jobs at least, if there are runs enough.

    Args:
        runs: what is to be done.
        data: by name.
        jobs: bundles at a time.
        stacking: whether to.
    """
    if stacking == "off":
        return [(run,) for run in runs], {}
    alone: Counter[str] = Counter()
    alike: defaultdict[Any, list[PlannedRun]] = defaultdict(list)
    for run in runs:
        why = why_alone(run.config, data[run.data])
        if why is not None:
            alone[why] += 1
        # Who trains alone is like nobody.
        alike[_kind(run, data[run.data]) if why is None else run.key].append(run)
    bundles = [b for kind in alike.values() for b in _divided(kind, data, jobs)]
    order = {run.key: place for place, run in enumerate(runs)}
    return sorted(bundles, key=lambda bundle: min(order[run.key] for run in bundle)), dict(alone)


def why_alone(config: TrainConfig, data: DomainData) -> str | None:
    """Why a run does not train with others, in words; ``None`` if it may."""
    method, backbone = method_of(config), architecture_of(config, data).name
    code = method.code
    together = (
        issubclass(code, Rule)
        if isinstance(method, RuleMethod)
        else issubclass(code, Learner) and code.stacks
    )
    if not together:
        return f"{method.info.title} takes its steps in a way of its own"
    on_gpu = config.accelerator in ("auto", "cuda", "gpu") and torch.cuda.is_available()
    if backbone not in (ON_GPUS if on_gpu else PERCEPTRONS):
        return f"the backbone {backbone} is as quick alone"
    inputs = (domain.tensors[0] for domain in data.domains.values())
    if any(isinstance(each, FetchedInputs) for each in inputs):
        return f"{data.name} does not lie in memory"
    augmented = type(data.preparation).augmented is not Preparation.augmented
    odd = {
        "augmentation draws as one run": augmented and config.augment,
        "dropout draws as one run": bool(config.dropout),
        "precision": config.precision != "32",
        "compile": config.compile,
        "class weights": config.class_weights != "none",
        "batches of one sample": training_of(config, data).batch == 1,
        "all samples at once": method.requires.whole,
    }
    return next((why for why, is_so in odd.items() if is_so), None)


def _kind(run: PlannedRun, data: DomainData) -> tuple[object, ...]:
    """Equal for runs that may train together."""
    config, training = run.config, training_of(run.config, data)
    sources = set(data.domains) - {*config.held_out, *data.never_sources}
    return (
        run.data, config.method, str(method_of(config).choices()), len(sources),
        str(architecture_of(config, data)), training.optimizer, config.average, config.accelerator,
    )  # fmt: skip


def _divided(runs: Sequence[PlannedRun], data: Mapping[str, DomainData], jobs: int) -> list[Bundle]:
    """Bundles of runs of one kind, so divided that a step of all costs least."""
    if len(runs) == 1:
        return [tuple(runs)]
    of = data[runs[0].data]
    shape, outputs, domains = prod(of.preparation.shape), of.outputs, len(of.domains)
    with torch.random.fork_rng([]):
        model = architecture_of(runs[0].config, of).build(of.preparation.shape, outputs)
    parameters = sum(p.numel() for p in model.parameters())
    # Data that each trial draws anew are drawn once for all runs of it.
    trial = (lambda run: run.config.trial) if is_drawn(runs[0].config.data) else (lambda _: 0)
    largest = max(run.config.batch or 1 for run in runs)
    copies = 4 + domains if issubclass(method_of(runs[0].config).code, Rule) else 5
    numbers = domains * largest * 2 * shape + copies * parameters
    most = max(1, min(MOST, ceil(len(runs) / jobs), NUMBERS // numbers))
    of_sample = domains * (6 * parameters / FLOPS + shape / GATHERED)
    bundles = []
    for own in {trial(run): None for run in runs}:
        alike = sorted((r for r in runs if trial(r) == own), key=lambda run: run.config.batch or 1)
        sizes = [run.config.batch or 1 for run in alike]
        ends = divided(sizes, most, OVERHEAD / of_sample)
        bundles += [tuple(alike[a:b]) for a, b in pairwise([0, *ends])]
    return bundles


def divided(sizes: Sequence[int], most: int, overhead: float) -> list[int]:
    """Where to divide ascending sizes, so that Σ (overhead + count · largest) over parts is least.

    Args:
        sizes: ascending.
        most: sizes in a part.
        overhead: of a part.

    Returns:
        The end of each part.

    >>> divided([10, 11, 12, 100, 110], most=4, overhead=50)
    [3, 5]
    >>> divided([10, 11, 12, 100, 110], most=5, overhead=1000)
    [5]
    """
    costs, begins = [0.0], [0]
    for end in range(1, len(sizes) + 1):
        found = [
            (costs[begin] + overhead + (end - begin) * sizes[end - 1], begin)
            for begin in range(max(0, end - most), end)
        ]
        cost, begin = min(found)
        costs.append(cost)
        begins.append(begin)
    ends, end = [], len(sizes)
    while end:
        ends.append(end)
        end = begins[end]
    return ends[::-1]
