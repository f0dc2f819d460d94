"""Bench: data of several domains, methods, an honest protocol, runs and reports.

This is its public face; the command line uses nothing else of it. Training and what comes of it:
:func:`train`, :func:`load_model`, :func:`evaluate`, :func:`predict`, :func:`inspect`. Comparisons:
:func:`sweep` of a :class:`SweepConfig`. What you bring along: :mod:`register`. The rest is what a
view of these needs: lists of names, news of what goes on, reports in parts.
"""

from . import register
from .domains import DATA_SETS, READERS, DataError, News, told_to_hold_out
from .entry import config_of, name_of, of_model, train
from .methods import ABLATIONS, QUICK, REFERENCES, listed_methods
from .metrics import METRICS, in_words
from .names import import_plugins, look_up
from .protocol import SELECTIONS
from .reports import (
    Summary,
    hyperparameter,
    json_of,
    latex,
    markdown,
    missing_lines,
    plot_confusion,
    print_tables,
    print_whole,
    published_lines,
    summarise,
    to_json,
    write_report,
    written_to,
)
from .runs import (
    Checkpoint,
    Event,
    Failed,
    FailedElsewhereError,
    Finished,
    FullDiskError,
    Listener,
    Lost,
    LostProcessError,
    PlannedRun,
    Progress,
    RayCrew,
    Result,
    Status,
    SweepConfig,
    SweepDirectory,
    TrainConfig,
    TrainedModel,
    processes_of,
    uninterrupted,
)
from .runs.loggers import LOGGERS
from .schema import Option, options_of, without_none
from .sections import SECTIONS
from .sections import Table as SectionTable
from .sweeping import PlannedSweep, plan_sweep, sweep
from .use import (
    DomainEvaluation,
    Estimates,
    Estimation,
    Evaluation,
    Inspection,
    Predictions,
    estimate,
    evaluate,
    inspect,
    load_model,
    predict,
)

__all__ = [
    "ABLATIONS",
    "DATA_SETS",
    "LOGGERS",
    "METRICS",
    "QUICK",
    "READERS",
    "REFERENCES",
    "SECTIONS",
    "SELECTIONS",
    "Checkpoint",
    "DataError",
    "DomainEvaluation",
    "Estimates",
    "Estimation",
    "Evaluation",
    "Event",
    "Failed",
    "FailedElsewhereError",
    "Finished",
    "FullDiskError",
    "Inspection",
    "Listener",
    "Lost",
    "LostProcessError",
    "News",
    "Option",
    "PlannedRun",
    "PlannedSweep",
    "Predictions",
    "Progress",
    "RayCrew",
    "Result",
    "SectionTable",
    "Status",
    "Summary",
    "SweepConfig",
    "SweepDirectory",
    "TrainConfig",
    "TrainedModel",
    "config_of",
    "estimate",
    "evaluate",
    "hyperparameter",
    "import_plugins",
    "in_words",
    "inspect",
    "json_of",
    "latex",
    "listed_methods",
    "load_model",
    "look_up",
    "markdown",
    "missing_lines",
    "name_of",
    "of_model",
    "options_of",
    "plan_sweep",
    "plot_confusion",
    "predict",
    "print_tables",
    "print_whole",
    "processes_of",
    "published_lines",
    "register",
    "summarise",
    "sweep",
    "to_json",
    "told_to_hold_out",
    "train",
    "uninterrupted",
    "without_none",
    "write_report",
    "written_to",
]
