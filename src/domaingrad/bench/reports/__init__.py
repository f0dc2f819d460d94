"""Reports: the only place where held-out scores are opened, as tables, files and a page."""

from .evaluation_plot import plot_confusion
from .files import require_room_for_report, write_report
from .latex import latex
from .markdown import markdown
from .plot_files import require_room_for_plot, written_to
from .published import against_published, not_comparable, published_lines
from .summary import Cell, DataSummary, MethodSummary, Summary, summarise
from .tables import hyperparameter, json_of, missing_lines, print_table, print_tables, to_json

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
    "print_table",
    "print_tables",
    "published_lines",
    "require_room_for_plot",
    "require_room_for_report",
    "summarise",
    "to_json",
    "write_report",
    "written_to",
]
