"""Domains: data sets whose samples come from several named domains."""

from .base import DataSet, correct, losses, score
from .data import (
    AsStored,
    DataError,
    DataOptions,
    DomainData,
    Domains,
    Groups,
    News,
    Preparation,
    Reader,
    Task,
)
from .datasets import from_datasets
from .loading import DATA_SETS, IN_MEMORY, READERS, load, told_to_hold_out
from .preparations import PREPARATIONS, preparation_from
from .recipes import Recipe, Schedule, Training

__all__ = [
    "DATA_SETS",
    "IN_MEMORY",
    "PREPARATIONS",
    "READERS",
    "AsStored",
    "DataError",
    "DataOptions",
    "DataSet",
    "DomainData",
    "Domains",
    "Groups",
    "News",
    "Preparation",
    "Reader",
    "Recipe",
    "Schedule",
    "Task",
    "Training",
    "correct",
    "from_datasets",
    "load",
    "losses",
    "preparation_from",
    "score",
    "told_to_hold_out",
]
