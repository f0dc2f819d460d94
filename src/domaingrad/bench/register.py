"""Registration: what a plug-in, a package or a program brings along is found by its name.

A module that registers is imported by ``--plugin MODULE`` (``plugins=`` from Python), or by an
entry point of an installed package in the group ``domaingrad.methods``, ``domaingrad.readers``,
``domaingrad.data_sets``, ``domaingrad.backbones``, ``domaingrad.preparations``,
``domaingrad.predictors``, ``domaingrad.metrics`` or
``domaingrad.report_sections``. A name that is taken raises
:class:`~domaingrad.bench.names.PluginError`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from domaingrad.rules import Rule

from .domains import DATA_SETS, PREPARATIONS, READERS, DataSet, Preparation, Reader, Task
from .methods import METHODS, Method, MethodInfo, method_of_rule
from .metrics import METRICS, Measure, Metric
from .models import BACKBONES, PREDICTORS, Predictor
from .models.backbones import Builder
from .protocol import Distribution
from .sections import SECTIONS, Section

M = TypeVar("M", bound=type[Method] | Method)
R = TypeVar("R", bound=type[Rule])
B = TypeVar("B", bound=Builder)
E = TypeVar("E", bound=Measure)
P = TypeVar("P", bound=type[Predictor])
T = TypeVar("T", bound=type[Preparation])


def method(entry: M) -> M:
    """A method under its ``info.name``: a class, with its defaults, or one with others."""
    made = entry if isinstance(entry, Method) else entry()
    METHODS.add(made.info.name, made)
    return entry


def rule(
    name: str,
    *,
    title: str | None = None,
    summary: str = "a rule of a plug-in",
    paper: str = "none named",
    search: Mapping[str, Distribution] | None = None,
) -> Callable[[R], R]:
    """Make a method of a rule, whose arguments become the hyper-parameters.

    Args:
        name: on the command line.
        title: in tables; the class's name unless given.
        summary: what it does, in one line.
        paper: where it is from.
        search: from what a random search draws arguments, by name.

    >>> from domaingrad.bench.names import PluginError
    >>> try:
    ...     rule("and-mask")(Rule)
    ... except PluginError as error:
    ...     print(error)
    there is a method 'and-mask' already; choose another name.
    """

    def register(made: R) -> R:
        info = MethodInfo(name, title or made.__name__, summary, paper)
        METHODS.add(name, method_of_rule(made, info, search))
        return made

    return register


def reader(entry: Reader) -> Reader:
    """A kind of data on disk, under its ``kind``."""
    return READERS.add(entry.kind, entry)


def data_set(entry: DataSet) -> DataSet:
    """A data set that a program draws, under its ``name``."""
    return DATA_SETS.add(entry.name, entry)


def preparation(kind: T) -> T:
    """A class that makes of stored inputs what models see, under its ``kind``."""
    PREPARATIONS.add(kind.kind, kind)
    return kind


def backbone(name: str) -> Callable[[B], B]:
    """A function of an input's shape and the number of outputs that makes a model."""

    def register(builder: B) -> B:
        BACKBONES.add(name, builder)
        return builder

    return register


def metric(
    name: str,
    *,
    title: str | None = None,
    task: Task = "classification",
    percent: bool = True,
    higher: bool = True,
) -> Callable[[E], E]:
    """A function of outputs and labels that evaluations tell, and that may select models.

    Args:
        name: on the command line.
        title: in tables; the name unless given.
        task: of which kind of labels.
        percent: whether it is a share of one.
        higher: whether more is better.
    """

    def register(of: E) -> E:
        METRICS.add(name, Metric(title or name, of, task, percent, higher))
        return of

    return register


def section(name: str, entry: Section) -> Section:
    """A part of reports and evaluations for data that record what it is made of."""
    return SECTIONS.add(name, entry)


def predictor(kind: P) -> P:
    """A class of what a method evaluates in place of its network, under its ``name``."""
    PREDICTORS.add(kind.name, kind)
    return kind
