"""Reports: the only place where held-out scores are opened, as table, CSV, JSON and a page."""

from .html import write_html
from .markdown import markdown
from .summary import Cell, DataSummary, MethodSummary, Summary, summarise
from .tables import hyperparameter, missing_lines, print_tables, results_csv, to_json

__all__ = [
    "Cell",
    "DataSummary",
    "MethodSummary",
    "Summary",
    "hyperparameter",
    "markdown",
    "missing_lines",
    "print_tables",
    "results_csv",
    "summarise",
    "to_json",
    "write_html",
]
