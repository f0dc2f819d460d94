"""Reports: the only place where held-out scores are opened, as tables, files and a page."""

from .evaluation_plot import plot_confusion
from .files import write_report
from .latex import latex
from .markdown import markdown
from .plot_files import written_to
from .published import against_published, not_comparable, published_lines
from .summary import Cell, DataSummary, MethodSummary, Summary, summarise
from .tables import hyperparameter, json_of, missing_lines, print_tables, print_whole, to_json

__all__ = [
    "Cell",
    "DataSummary",
    "MethodSummary",
    "Summary",
    "against_published",
    "hyperparameter",
    "json_of",
    "latex",
    "markdown",
    "missing_lines",
    "not_comparable",
    "plot_confusion",
    "print_tables",
    "print_whole",
    "published_lines",
    "summarise",
    "to_json",
    "write_report",
    "written_to",
]
