"""Reports: the only place where held-out scores are opened, as tables, files and a page."""

from .html import write_html
from .latex import latex
from .markdown import markdown
from .published import against_published, not_comparable
from .summary import Cell, DataSummary, MethodSummary, Summary, summarise
from .tables import hyperparameter, missing_lines, print_tables, to_json, write_csv

__all__ = [
    "Cell",
    "DataSummary",
    "MethodSummary",
    "Summary",
    "against_published",
    "hyperparameter",
    "latex",
    "markdown",
    "missing_lines",
    "not_comparable",
    "print_tables",
    "summarise",
    "to_json",
    "write_csv",
    "write_html",
]
