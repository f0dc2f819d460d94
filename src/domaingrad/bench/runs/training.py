"""Train one model on anyone's data, with a domain held out or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

from torch import Generator

from domaingrad.bench.disk import RunDirectoryError, in_name, require_no_link
from domaingrad.bench.domains import DataError, DomainData, Embeddings, News, Task, embedded, load
from domaingrad.bench.names import import_plugins
from domaingrad.bench.protocol import generator_of, training_domain_validation

from .directory import RunDirectory, flat
from .launching import alone_on, fabric_of, is_first, joined, require_among_processes
from .loggers import logger_class
from .ranks import LostProcessError, Ranks, in_short, is_lost_process
from .resumable import Begun, Built, Carried, Listener, Underway, begin, build, carry_on
from .settings import TrainConfig, checked, method_of, resolved, training_of, written
from .trained import TrainedModel, read_model
from .trainer import DIVERGED, Checkpoint, HeldOutScores, require_sources

NONE = "none"
"""What stands for no domain on the command line."""

ESTIMATE = "estimate"
"""Where, in the directory of a run that holds out none, the runs are that hold out one each."""


@dataclass(frozen=True)
class Result:
    """A training that has ended; its held-out scores are opened by :meth:`RunDirectory.unseal`."""

    directory: RunDirectory
    config: TrainConfig
    task: Task
    selected: Checkpoint
    held_out: HeldOutScores | None
    """Of the selected checkpoint."""
    estimate: Estimate | None
    """Where none is held out."""
    seconds: float
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def model(self) -> TrainedModel:
        """The selected model."""
        return TrainedModel.load(self.directory.model)


@dataclass(frozen=True)
class Estimate:
    """What to expect on a new domain: each source held out in turn, from a model of its own."""

    results: Mapping[str, Result]

    @property
    def scores(self) -> dict[str, float]:
        """Score on each domain while it was held out, at the selected checkpoint."""
        return {
            name: result.held_out.score
            for name, result in self.results.items()
            if result.held_out is not None
        }


def train(
    config: TrainConfig,
    out: Path,
    listener: Listener | None = None,
    *,
    data: DomainData | None = None,
    loggers: Sequence[str] = (),
    patience: float = 0.0,
    keep_model: bool = True,
) -> Result:
    """Train as ``config`` says, or go on where ``out`` shows that it was left.

    The same settings give the same numbers, to the last bit on a CPU, whether or not the training
    was cut off in between (checked with the same number of threads and version of PyTorch). With
    ``hold_out=None`` each domain is first held out in turn by a training of its own, in
    ``out/estimate``, so that there is an estimate for a domain never seen.

    Args:
        config: what is trained, how.
        out: the directory of the run.
        listener: who hears how it goes.
        data: the data, where ``config.data`` is only their name.
        loggers: names in :data:`~domaingrad.bench.runs.loggers.LOGGERS`.
        patience: seconds to wait for another process that is at work in ``out``.
        keep_model: whether the selected model and the state to go on from stay.

    Raises:
        DataError: the data cannot be read, or not be trained on so.
        RunDirectoryError: the directory holds another run, another process, or a full disk.
        ValueError: a name or number in the settings that does not exist or does not fit, and
            weights likewise.
    """
    listener = listener or Listener()
    for name in loggers:
        logger_class(name)
    config, data = _read(config, data, listener)
    carried = Carried(Ranks(partial(alone_on, config)), listener, loggers, keep_model)
    return _train(config, out, data, carried, patience)


def train_together(
    config: TrainConfig,
    out: Path,
    listener: Listener | None = None,
    *,
    processes: tuple[int, int],
    loggers: Sequence[str] = (),
) -> Result:
    """The same by several processes, each of which comes here; the first one starts the others.

    They are started by running the program again that called this, with its arguments, unless
    ``torchrun`` or another launcher has. All draw the same batches, and each computes on a part of
    the samples, so that the numbers are those of one process up to rounding, but for what the model
    draws itself and for BatchNorm. The first process alone writes.

    Args:
        config: what is trained, how.
        out: the directory of the run.
        listener: who hears how it goes, at the first process.
        processes: how many on each node, each with a device of its own, and how many nodes.
        loggers: names in :data:`~domaingrad.bench.runs.loggers.LOGGERS`.

    Raises:
        DataError, RunDirectoryError, ValueError: as :func:`train`; and a method or a number of
            processes with which that cannot be.
        FailedElsewhereError: another process has raised that.
        LostProcessError: another process has ended, or does not answer.
    """
    for name in loggers:
        logger_class(name)
    config = checked(config)
    require_among_processes(method_of(config))
    fabric = fabric_of(config, *processes)
    heard = (listener if is_first(fabric) else None) or Listener()

    def prepare() -> tuple[TrainConfig, DomainData, Built]:
        ready, data = _read(config, None, heard)
        _require_work(ready, data, prod(processes))
        _require_turns(ready, data)
        return ready, data, build(ready, data)

    try:
        ranks, (ready, data, built) = joined(fabric, prepare)
        ranks.require_same(flat(written(ready, data, ranks.world)))
        return _train(ready, out, data, Carried(ranks, heard, loggers), 0.0, built)
    except RuntimeError as error:
        if not is_lost_process(error):
            raise
        raise LostProcessError(
            f"another process of this training has ended, or does not answer ({in_short(error)}); "
            f"what it had to say stands above, or on its node. What was written is whole; the same "
            f"command goes on from the last checkpoint."
        ) from error


def _read(
    config: TrainConfig, data: DomainData | None, listener: Listener
) -> tuple[TrainConfig, DomainData]:
    """The data, and the settings with nothing left open."""
    import_plugins(config.plugins)
    if data is None:
        data = data_of(config, listener.news)
        for note in data.notes:
            listener.news.say(f"Note: {note}")
    elif config.frozen_backbone and not isinstance(data.preparation, Embeddings):
        data = _embedded(config, data, listener.news)
    if config.hold_out is None and NONE in data.domains:
        raise DataError(
            f"a domain is called {NONE!r}, which stands for no domain held out; rename it."
        )
    return resolved(config, data), data


def _train(
    config: TrainConfig,
    out: Path,
    data: DomainData,
    carried: Carried,
    patience: float,
    begun: Begun | Built | None = None,
) -> Result:
    """Train as resolved settings say, with what has been made for it; a collective call."""
    ranks = carried.ranks
    directory, settings = RunDirectory(out), written(config, data, ranks.world)
    with ExitStack() as held:
        if begun is None and ranks.world == 1 and not directory.begun:
            # Before anything is written.
            directory.require_free()
            _require_turns(config, data)
            begun = begin(config, data, ranks)
        at_work = ranks.first(lambda: _entered(directory, settings, held, patience))
        estimate = None
        if config.hold_out is None:
            estimate = Estimate(
                {
                    name: _train(
                        resolved(replace(config, hold_out=name), data),
                        _within(out, ESTIMATE, in_name(name)),
                        data,
                        carried,
                        0.0,
                    )
                    for name in held_out_in_turn(data)
                }
            )
        fault = ranks.first(lambda: _fault(directory)) if at_work else None
        if fault is not None:
            if fault:
                carried.listener.news.say(f"{fault} It is done again from the last checkpoint.")
            carry_on(config, data, directory, carried, begun)
        told = ranks.first(lambda: _told(directory))
        return _result(directory, config, data, estimate, told)


def _entered(
    directory: RunDirectory, settings: Mapping[str, Any], held: ExitStack, patience: float
) -> bool:
    """Keep others out; but of what is whole nothing is written, so that it may be shown."""
    if directory.begun:
        directory.require(settings)
        if _fault(directory) is None:
            return False
    directory.make()
    held.enter_context(directory.alone(patience))
    directory.begin(settings)
    return True


def underway(
    config: TrainConfig,
    data: DomainData,
    out: Path,
    carried: Carried,
    held: ExitStack,
    patience: float,
) -> Underway | None:
    """A training that holds out a domain, begun or gone on with; ``None`` where it has ended.

    Args:
        config: resolved settings.
        data: the data.
        out: the directory of the run.
        carried: in this process, and who hears of it.
        held: what keeps others out is left with it.
        patience: seconds to wait for another process that is at work in ``out``.

    Raises:
        DataError, RunDirectoryError, ValueError: as :func:`train`.
    """
    directory = RunDirectory(out)
    begun = None if directory.begun else begin(config, data, carried.ranks)
    if not _entered(directory, written(config, data), held, patience):
        return None
    begun = begun or begin(config, data, carried.ranks)
    return Underway(config, data, directory, carried, begun)


def _fault(directory: RunDirectory) -> str | None:
    """What is damaged, or nothing; ``None`` where the run has ended, and all is there.

    A sweep forgets its models, and the states to go on from with them.
    """
    records = directory.records()
    if records.condition != "finished":
        return records.cause
    if not directory.model.exists() and not directory.resumable:
        return None
    try:
        described, _ = read_model(directory.model)
    except RunDirectoryError as error:
        return str(error)
    if described["facts"].get("step") != _selected(records.checkpoints).step:
        return f"{directory.model} is not the model of the step that is selected."
    return None


def _within(out: Path, *names: str) -> Path:
    for name in names:
        out /= name
        require_no_link(out)
    return out


def _selected(known: Sequence[Checkpoint]) -> Checkpoint:
    return known[training_domain_validation([each.val_score for each in known])]


def estimate_in(directory: RunDirectory) -> dict[str, HeldOutScores]:
    """What a run that holds out none has estimated: each domain's score while it was held out.

    Empty where it has held out a domain, or has not come that far.
    """
    found = {}
    for run in estimates_of(directory):
        known, name = run.checkpoints(), run.config()["hold_out"]
        step = known[training_domain_validation([each.val_score for each in known])].step
        found[name] = run.unseal()[step][name]
    return found


def estimates_of(directory: RunDirectory) -> list[RunDirectory]:
    """The trainings of a run that hold out a domain each, as far as they have ended."""
    runs = [RunDirectory(place) for place in sorted((directory.path / ESTIMATE).glob("*/"))]
    return [run for run in runs if run.begun and run.finished() is not None and run.checkpoints()]


def held_out_in_turn(data: DomainData) -> list[str]:
    """Domains that an estimate holds out: those that leave a source to train on."""
    several = len(data.domains) - len(data.never_sources) > 1
    return [name for name in data.domains if several or name in data.never_sources]


def data_of(config: TrainConfig, news: News, counted: bool = False) -> DomainData:
    """The data of a run; as embeddings, where its backbone is frozen.

    Args:
        config: the settings.
        news: hears of the reading.
        counted: whether they are counted alone, and nothing is decoded or embedded.

    Raises:
        DataError, ValueError: they cannot be read, or not be embedded.
    """
    data = load(config.data, config.data_options, news, drawing(config), counted)
    return _embedded(config, data, news, counted) if config.frozen_backbone else data


def _embedded(
    config: TrainConfig, data: DomainData, news: News, counted: bool = False
) -> DomainData:
    backbone = checked(config).backbone
    assert backbone is not None
    return embedded(data, backbone, config.weights, news, config.accelerator, counted)


def drawing(config: TrainConfig) -> Generator:
    """From which data are drawn that each trial draws anew."""
    return generator_of(*drawing_names(config))


def drawing_names(config: TrainConfig) -> tuple[object, ...]:
    """What that derives from; nothing of where the data lie."""
    return config.seed, config.data.partition(":")[0], f"trial {config.trial}", "data"


def _sources(config: TrainConfig, data: DomainData) -> list[list[str]]:
    """The source domains of a training, and of those that hold out one each for its estimate."""
    left = [name for name in data.domains if name not in (*config.held_out, *data.never_sources)]
    if config.hold_out is not None:
        return [left]
    turns = [[each for each in left if each != name] for name in held_out_in_turn(data)]
    return [left, *turns]


def _require_work(config: TrainConfig, data: DomainData, processes: int) -> None:
    """See that each process has samples in each step.

    Raises:
        DataError: one has not.
    """
    batch = training_of(config, data).batch
    fewest = batch * min(len(sources) for sources in _sources(config, data))
    if fewest < processes:
        raise DataError(
            f"a step has {fewest} samples, {batch} of each source domain, and some of {processes} "
            f"processes would have none. Use fewer devices or nodes, or a greater batch."
        )


def _require_turns(config: TrainConfig, data: DomainData) -> None:
    """See that there are sources enough where each domain is held out in turn.

    Raises:
        DataError: there are not.
    """
    if config.hold_out is None:
        for sources in _sources(config, data):
            require_sources(method_of(config), sources)


def _told(directory: RunDirectory) -> dict[str, Any]:
    """What a run that has ended says of itself, in plain values."""
    records = directory.records()
    selected = _selected(records.checkpoints)
    sealed = records.sealed.get(selected.step, {})
    return {
        **records.ended,
        "selected": asdict(selected),
        "held_out": {name: asdict(found) for name, found in sealed.items()},
        "diverged": any(each.loss is None for each in records.checkpoints),
    }


def _result(
    directory: RunDirectory,
    config: TrainConfig,
    data: DomainData,
    estimate: Estimate | None,
    told: Mapping[str, Any],
) -> Result:
    warned, held_out = list(told["warnings"]), told["held_out"].get(config.hold_out)
    if told["diverged"] and not any(DIVERGED in text for text in warned):
        warned.append(DIVERGED)
    return Result(
        directory=directory,
        config=config,
        task=data.task,
        selected=Checkpoint(**told["selected"]),
        held_out=None if held_out is None else HeldOutScores(**held_out),
        estimate=estimate,
        seconds=told["seconds"],
        warnings=tuple(warned),
        notes=(*data.notes, *told["notes"]),
    )
