"""The plan of a sweep: which runs it takes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from domaingrad.bench.domains import DATA_SETS, DataError, DomainData, News, Task
from domaingrad.bench.methods import method_named
from domaingrad.bench.names import import_plugins, look_up
from domaingrad.bench.protocol import SELECTIONS, drawn
from domaingrad.bench.schema import Count, settings, without_none

from .settings import (
    DECIDED_BY,
    MADE_BY,
    TrainConfig,
    deciding,
    resolved,
    training_in_words,
    written,
)
from .trainer import require_sources
from .training import data_of, held_out_in_turn

KEY = "^[0-9a-f]{16}$"
"""What is a run's name, and so no path that leads elsewhere."""
NESTED = ("settings", "data_options")
OF_DATA = "data "
"""Before the names of data, by which ``decided_by`` has their fingerprints."""
FORMAT = 3
"""Number of the layout of a written plan; another number is refused."""


@settings
class SweepConfig:
    """What is asked of a sweep."""

    data: tuple[str, ...]
    """As for a single training: ``KIND:PATH``, a path, or the name of a built-in data set."""
    methods: tuple[str, ...]
    trials: Count = 3
    """Repetitions with fresh splits, initialisation, batches and draws."""
    draws: Count = 1
    """Draws of hyper-parameters; the first is that of the defaults."""
    selections: tuple[str, ...] = ("training-domain-validation", "oracle-last", "oracle-best")
    hold_out: tuple[str, ...] = ()
    """The domains to hold out in turn, of each data those that it has; none for all."""
    any_plan: bool = False
    """Whether the directory keeps runs for any plan, as ``compare`` does, or for this one alone."""
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of :class:`TrainConfig` that hold in all runs, and so are not drawn."""
    data_options: Mapping[str, Any] = field(default_factory=dict)
    plugins: tuple[str, ...] = ()
    """Modules that are imported for what they register, by every worker too."""


@dataclass(frozen=True)
class PlannedRun:
    """One run: its settings with nothing left open."""

    key: Annotated[str, Field(pattern=KEY)]
    """Its name, by its content."""
    data: str
    """Name of the data."""
    task: Task
    draw: int
    config: TrainConfig = field(compare=False)
    """Of which the key says what decides; a later release may write down more of it."""

    @property
    def title(self) -> str:
        """For people."""
        config = self.config
        draw = f", draw {self.draw}" if self.draw else ""
        return (
            f"{config.method}, {self.data}, trial {config.trial + 1}{draw}, held out "
            f"{' and '.join(config.held_out)}"
        )


@dataclass(frozen=True)
class Bundle:
    """Runs that are carried out together, or one alone."""

    runs: tuple[PlannedRun, ...]
    together: bool = False
    """Whether they train as one stack, also where that is of one run."""


@dataclass(frozen=True)
class PlannedData:
    """What a report needs to know of data without reading them."""

    name: str
    held_out: tuple[str, ...]
    """The domains that are held out in turn."""
    others: Mapping[str, tuple[str, ...]]
    """For each of these, the domains that are held out beside it for leave-one-domain-out."""
    task: Task
    classes: int
    summary: str = field(compare=False)
    source: str = field(compare=False)
    backbone: str
    steps: int
    recipe: str = field(compare=False)
    """How models are trained, in words."""
    chosen: str = field(compare=False)
    """How that came about."""
    metric: str | None = field(default=None, compare=False)
    """Name of what models are scored by, if not the usual."""


@dataclass(frozen=True)
class Plan:
    """What is asked for, and the runs that it takes."""

    request: SweepConfig
    data: tuple[PlannedData, ...]
    runs: tuple[PlannedRun, ...]
    decided_by: Mapping[str, Any]
    """What decides the numbers beside settings: data, code of methods, version of the numerics."""
    made_by: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """Versions that began it, for the record."""

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of the data, by name."""
        found = {n: v for n, v in self.decided_by.items() if n.startswith(OF_DATA)}
        return {name.removeprefix(OF_DATA): value for name, value in found.items()}

    def to_document(self) -> dict[str, Any]:
        """For a file; :meth:`from_document` reads it."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Plan:
        """What :meth:`to_document` gave.

        Raises:
            ValueError: no plan of this version.
        """
        found = document.pop("format", None)
        if found != FORMAT:
            raise ValueError(f"expected a plan of format {FORMAT}; found {found}")
        import_plugins(tuple(document["request"]["plugins"]))
        plan: Plan = TypeAdapter(cls).validate_python(document)
        return plan


def make_plan(
    request: SweepConfig,
    news: News | None = None,
    *,
    counted: bool = False,
    known: Mapping[str, str] | None = None,
) -> tuple[Plan, dict[str, DomainData]]:
    """All runs that the request takes, trial by trial, so that an interrupted sweep is even.

    Every method on all data with every domain held out in turn, ``trials`` times ``draws``; where
    leave-one-domain-out is among the selections, also with every other source held out beside it.

    Args:
        request: what is asked for.
        news: who hears of reading data.
        counted: whether data are counted alone, and nothing is decoded.
        known: fingerprints by name, for those that counting does not tell.

    Returns:
        The plan, and the data of the first trial by name.

    Raises:
        UnknownNameError: a name in no list.
        ValueError: a number or a setting that makes no sense, data that cannot be read or have too
            few domains for a method.
    """
    request = _checked(request)
    news = news or News()
    read: dict[str, DomainData] = {}
    holdable: dict[str, None] = {}
    planned, prints = [], {}
    for given in request.data:
        first = TrainConfig(
            given, None, seed=request.seed, data_options=request.data_options, **request.settings
        )
        data = data_of(first, news, counted)
        if data.counted and known and data.name in known:
            news.say(f"{data.name} is taken for the data that the sweep in this directory has.")
            data = replace(data, fingerprint=known[data.name])
        if data.name in read:
            raise DataError(
                f"two of the data are called {data.name}; give one of them another name, or "
                f"compare them in two sweeps."
            )
        for note in data.notes:
            news.say(f"Note: {data.name}: {note}")
        read[data.name] = data
        prints[data.name] = data.fingerprint
        holdable |= dict.fromkeys(_holdable(data))
    for name in request.hold_out:
        look_up("domain to hold out", name, holdable)
    kinds = [
        _described(data, request, given)
        for data, given in zip(read.values(), request.data, strict=True)
    ]
    by_trial = [
        (trial, draw, given, read[kind.name], kind)
        for trial in range(request.trials)
        for draw in range(request.draws)
        for given, kind in zip(request.data, kinds, strict=True)
    ]
    decided_by: dict[str, Any] = {f"{OF_DATA}{name}": found for name, found in prints.items()}
    made_by: dict[str, Any] = {}
    for trial, draw, given, data, kind in by_trial:
        for held_out in _held_out(kind, request):
            for method in request.methods:
                config = _config(request, given, data, held_out, method, trial, draw)
                settings = written(config, data)
                decided_by["numerics"] = settings[DECIDED_BY]["numerics"]
                decided_by[f"code of {method}"] = settings[DECIDED_BY]["code"]
                made_by = settings[MADE_BY]
                key = key_of(settings, draw)
                planned.append(PlannedRun(key, data.name, data.task, draw, config))
    return Plan(request, tuple(kinds), tuple(planned), decided_by, made_by), read


def key_of(settings: Mapping[str, Any], draw: int) -> str:
    """The name of a run: by all that decides its numbers, and the draw that these settings are."""
    text = json.dumps([deciding(settings), draw], sort_keys=True)
    return sha256(text.encode()).hexdigest()[:16]


def _checked(request: SweepConfig) -> SweepConfig:
    """Without names given twice.

    Raises:
        UnknownNameError: a name in no list.
        ValueError: a number that makes no sense.
    """
    import_plugins(request.plugins)
    for name in request.methods:
        method_named(name)
    for name in request.selections:
        look_up("selection method", name, SELECTIONS)
    return replace(
        request,
        settings=without_none(request.settings),
        data=tuple(dict.fromkeys(request.data)),
        methods=tuple(dict.fromkeys(request.methods)),
        hold_out=tuple(dict.fromkeys(request.hold_out)),
        selections=tuple(dict.fromkeys(request.selections)),
    )


def _held_out(kind: PlannedData, request: SweepConfig) -> Iterator[tuple[str, ...]]:
    """Domains to hold out together: each alone, and pairs where a selection method takes them."""
    yield from ((name,) for name in kind.held_out)
    if any(SELECTIONS[name].needs_pairs for name in request.selections):
        pairs = {frozenset((one, other)) for one in kind.held_out for other in kind.others[one]}
        # In an order that does not depend on what else is held out, since seeds derive from it.
        yield from sorted((min(pair), max(pair)) for pair in pairs)


def _config(
    request: SweepConfig,
    given: str,
    data: DomainData,
    held_out: tuple[str, ...],
    method: str,
    trial: int,
    draw: int,
) -> TrainConfig:
    """The settings of one run, with what the draw says of them."""
    names = (request.seed, data.name, f"trial {trial}")
    optimisation = {
        name: distribution
        for name, distribution in data.recipe.distributions.items()
        if name not in request.settings
    }
    config = TrainConfig(
        given,
        held_out[0],
        also_hold_out=held_out[1] if len(held_out) > 1 else None,
        method=method,
        hyperparameters=drawn(method_named(method).search, draw, *names),
        data_options=request.data_options,
        seed=request.seed,
        trial=trial,
        plugins=request.plugins,
    )
    settings: dict[str, Any] = drawn(optimisation, draw, *names) | dict(request.settings)
    return resolved(replace(config, **settings), data)


def _described(data: DomainData, request: SweepConfig, given: str) -> PlannedData:
    """Name what is held out, and what the reader of a report wants to know.

    Raises:
        DataError: too few domains.
    """
    own = DATA_SETS[data.name] if data.built_in else None
    sources = [name for name in data.domains if name not in data.never_sources]
    held_out = _holdable(data)
    if request.hold_out:
        held_out = tuple(name for name in request.hold_out if name in held_out)
    if not held_out:
        raise DataError(
            f"{data.name} has none of the domains to hold out ({', '.join(request.hold_out)}); "
            f"those that it can hold out are {', '.join(_holdable(data))}."
        )
    others = {one: tuple(name for name in sources if name != one) for one in held_out}
    pairs = any(SELECTIONS[name].needs_pairs for name in request.selections)
    for one in held_out:
        for method in request.methods:
            left = list(others[one])
            require_sources(method_named(method), left)
            if pairs and len(left) - 1 < method_named(method).requires.min_domains:
                raise DataError(
                    f"leave-one-domain-out selection holds out two domains at a time; {data.name} "
                    f"then has {len(left) - 1} left to train on, and {method} takes "
                    f"{method_named(method).requires.min_domains}. Leave that selection method out."
                )
    config = TrainConfig(
        given,
        held_out[0],
        data_options=request.data_options,
        plugins=request.plugins,
        **request.settings,
    )
    config = resolved(config, data)
    assert config.backbone is not None
    assert config.steps is not None
    recipe, chosen = training_in_words(config, data)
    samples = sum(len(domain) for domain in data.domains.values())
    what = f"{len(data.classes)} classes" if data.task == "classification" else data.task
    return PlannedData(
        name=data.name,
        held_out=held_out,
        others=others,
        task=data.task,
        classes=len(data.classes) if data.task == "classification" else 2,
        summary=own.summary if own else f"{', '.join(data.domains)}; {what}, {samples:,} samples.",
        source=own.source if own else f"fingerprint {data.fingerprint}",
        backbone=config.backbone,
        steps=config.steps,
        recipe=recipe,
        chosen=chosen,
        metric=config.metric,
    )


def _holdable(data: DomainData) -> tuple[str, ...]:
    """The domains that can be held out."""
    return DATA_SETS[data.name].held_out if data.built_in else tuple(held_out_in_turn(data))


def differences(one: SweepConfig, other: SweepConfig) -> Iterator[tuple[str, Any, Any]]:
    """What is asked differently: name, there, here."""
    flat = [
        {name: value for name, value in vars(request).items() if name not in NESTED}
        | dict(request.settings)
        | dict(request.data_options)
        for request in (one, other)
    ]
    for name in dict.fromkeys([*flat[0], *flat[1]]):
        there, here = (each.get(name) for each in flat)
        if there != here:
            yield name, there, here


def extends(plan: Plan, there: Plan) -> bool:
    """Whether the plan has all runs of another, and perhaps more."""
    same = plan.request.any_plan == there.request.any_plan
    return same and {run.key for run in there.runs} <= {run.key for run in plan.runs}
