"""Domains: data sets whose samples come from several named domains."""

from .base import DataSet, Recipe, Schedule, correct, losses, score
from .data import AsStored, DataError, DataOptions, DomainData, Domains, News, Preparation, Task
from .digits import COLORED_DIGITS, ROTATED_DIGITS
from .linear_toy import LINEAR_TOY
from .spirals import SPIRALS

DATA_SETS: dict[str, DataSet] = {
    data.name: data for data in (SPIRALS, LINEAR_TOY, COLORED_DIGITS, ROTATED_DIGITS)
}
"""Every data set that needs no download, by name."""

__all__ = [
    "DATA_SETS",
    "AsStored",
    "DataError",
    "DataOptions",
    "DataSet",
    "DomainData",
    "Domains",
    "News",
    "Preparation",
    "Recipe",
    "Schedule",
    "Task",
    "correct",
    "losses",
    "score",
]
