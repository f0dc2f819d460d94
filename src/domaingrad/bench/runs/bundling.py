"""Which runs of a sweep train together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import torch

from domaingrad.bench.domains import DomainData
from domaingrad.bench.domains.fetched import FetchedInputs
from domaingrad.bench.methods import Learner, Method, RuleMethod
from domaingrad.rules import Rule
from domaingrad.rules.base import RandomRule

from .plan import Bundle, PlannedRun
from .settings import TrainConfig, architecture_of, method_of, training_of
from .stacked import padded

Stacking = Literal["auto", "off"]
"""Whether runs train together where it pays."""

PERCEPTRONS = frozenset({"linear", "mlp", "wide-deep"})
"""Backbones of linear layers and activations, whose runs train together on a CPU."""
ON_GPUS = PERCEPTRONS | {"mnist-cnn"}
"""Those whose runs do on a GPU."""
MOST = 64
"""Runs in a bundle."""
NUMBERS = 2**26
"""That the inputs, activations, gradients and moments of a bundle may have, roughly."""
PAYS = 1e8
"""Operations of a run's step up to which it pays on a CPU, by ``benchmarks/stacked.py``."""
POOLED = 2**28
"""Numbers that the prepared samples of a bundle may have; runs of one trial and held-out domain
share theirs."""


def bundles_of(
    runs: Sequence[PlannedRun], data: Mapping[str, DomainData], jobs: int, stacking: Stacking
) -> tuple[list[Bundle], dict[str, int]]:
    """Runs that train together, or one alone; and why how many do.

    Together train runs of one method, architecture and kind of optimizer on the same data, with
    batches of about one size. Who may train with others trains as a stack also where nobody does,
    so that no number depends on who there is. There are as many bundles as jobs, if runs are there.

    Args:
        runs: what is to be done.
        data: by name.
        jobs: bundles at a time.
        stacking: whether to.
    """
    if stacking == "off":
        return [Bundle((run,)) for run in runs], {}
    bundles: list[Bundle] = []
    alone: Counter[str] = Counter()
    alike: defaultdict[Any, list[PlannedRun]] = defaultdict(list)
    sizes: dict[str, _Size] = {}
    for run in runs:
        of, config = data[run.data], run.config
        why = why_alone(config, of)
        if why is None:
            known = f"{run.data} {architecture_of(config, of)}"
            size = sizes[known] = sizes.get(known) or _Size.of(config, of)
            operations = 6 * size.parameters * len(of.domains) * (config.batch or 1)
            if operations > PAYS and not _on_gpu(config):
                why = "its arithmetic takes longer than what is saved"
        if why is not None:
            alone[why] += 1
            bundles.append(Bundle((run,)))
        else:
            alike[_kind(run, of), size].append(run)
    for (_, size), kind in alike.items():
        bundles += _divided(kind, data[kind[0].data], size)
    while len(bundles) < min(jobs, len(runs)):
        largest = max(bundles, key=lambda bundle: len(bundle.runs))
        half = len(largest.runs) // 2
        bundles.remove(largest)
        bundles += [
            Bundle(part, together=True) for part in (largest.runs[:half], largest.runs[half:])
        ]
    order = {run.key: place for place, run in enumerate(runs)}
    bundles.sort(key=lambda bundle: min(order[run.key] for run in bundle.runs))
    return bundles, dict(alone)


def why_alone(config: TrainConfig, data: DomainData) -> str | None:
    """Why a run does not train with others, in words; ``None`` if it may."""
    method, backbone = method_of(config), architecture_of(config, data).name
    if not _steps_alike(method):
        return f"{method.info.title} takes its steps in a way of its own"
    if backbone not in (ON_GPUS if _on_gpu(config) else PERCEPTRONS):
        return f"the backbone {backbone} is as quick alone"
    inputs = (domain.tensors[0] for domain in data.domains.values())
    if any(isinstance(each, FetchedInputs) for each in inputs):
        return f"{data.name} does not lie in memory"
    varied = data.preparation.varies and set(config.augment or ()) != {"none"}
    odd = {
        "augmentation draws as one run": varied,
        "dropout draws as one run": bool(config.dropout),
        "precision": config.precision != "32",
        "compile": config.compile,
        "class weights": config.class_weights != "none",
        "batches of one sample": training_of(config, data).batch == 1,
        "all samples at once": method.requires.whole,
    }
    return next((why for why, is_so in odd.items() if is_so), None)


def _steps_alike(method: Method) -> bool:
    """Whether a step is a gradient that may be taken of many runs at once, and an optimizer's step.

    What a learner says of itself does not hold for what is derived from it.
    """
    code = method.code
    if isinstance(method, RuleMethod):
        return code.state_dict in (Rule.state_dict, RandomRule.state_dict)
    whole = all(
        getattr(code, n) is getattr(Learner, n) for n in ("update", "backward", "predictor")
    )
    return whole and vars(code).get("stacks", False)


def _kind(run: PlannedRun, data: DomainData) -> tuple[object, ...]:
    """Equal for runs that may train together."""
    config, training = run.config, training_of(run.config, data)
    sources = set(data.domains) - {*config.held_out, *data.never_sources}
    return (
        run.data, config.method, str(method_of(config).choices()), len(sources),
        padded(training.batch),
        str(architecture_of(config, data)), training.optimizer, config.average, config.accelerator,
    )  # fmt: skip


@dataclass(frozen=True)
class _Size:
    """Of one input as a network sees it, and of the network."""

    inputs: int
    parameters: int

    @classmethod
    def of(cls, config: TrainConfig, data: DomainData) -> _Size:
        """Of a run."""
        stored = [domain.tensors[0] for domain in data.domains.values()]
        shape = data.preparation.fitted(stored).shape
        with torch.random.fork_rng([]):
            model = architecture_of(config, data).build(shape, data.outputs)
        return cls(prod(shape), sum(p.numel() for p in model.parameters()))


def _on_gpu(config: TrainConfig) -> bool:
    return config.accelerator in ("auto", "cuda", "gpu") and torch.cuda.is_available()


def _divided(runs: Sequence[PlannedRun], data: DomainData, size: _Size) -> list[Bundle]:
    """Bundles of runs of one kind, as large as memory allows."""
    domains, largest = len(data.domains), max(run.config.batch or 1 for run in runs)
    copies = 4 + (domains if issubclass(method_of(runs[0].config).code, Rule) else 1)
    kept = copies * size.parameters + 2 * domains * largest * size.inputs
    most = min(MOST, NUMBERS // kept)
    pool = size.inputs * sum(map(len, data.domains.values()))
    if len({(run.config.trial, run.config.held_out) for run in runs}) * pool > POOLED:
        most = min(most, POOLED // pool)
    most = max(1, most)
    # Runs of one trial side by side, whose data are drawn or prepared once.
    runs = sorted(runs, key=lambda run: (run.config.trial, run.config.held_out))
    parts = [runs[begin : begin + most] for begin in range(0, len(runs), most)]
    return [Bundle(tuple(part), together=True) for part in parts]
