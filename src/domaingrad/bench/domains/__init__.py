"""Domains: data sets whose samples come from several named domains."""

from .base import DataSet, correct, losses, score
from .cache import cache_directory, cached_bytes, clear_cache
from .data import (
    HALF,
    AsStored,
    DataError,
    DomainData,
    Domains,
    Groups,
    News,
    Preparation,
    Reader,
    ReaderOptions,
    Task,
)
from .datasets import from_datasets
from .embeddings import Embeddings, embedded, write_embeddings
from .files import listed
from .loading import DATA_SETS, IN_MEMORY, READERS, is_drawn, load, options_of, told_to_hold_out
from .preparations import PREPARATIONS, preparation_from
from .recipes import (
    AUGMENTATIONS,
    HEADS,
    Augmentation,
    Balance,
    OptimizerName,
    Recipe,
    Schedule,
    Training,
)

__all__ = [
    "AUGMENTATIONS",
    "DATA_SETS",
    "HALF",
    "HEADS",
    "IN_MEMORY",
    "PREPARATIONS",
    "READERS",
    "AsStored",
    "Augmentation",
    "Balance",
    "DataError",
    "DataSet",
    "DomainData",
    "Domains",
    "Embeddings",
    "Groups",
    "News",
    "OptimizerName",
    "Preparation",
    "Reader",
    "ReaderOptions",
    "Recipe",
    "Schedule",
    "Task",
    "Training",
    "cache_directory",
    "cached_bytes",
    "clear_cache",
    "correct",
    "embedded",
    "from_datasets",
    "is_drawn",
    "listed",
    "load",
    "losses",
    "options_of",
    "preparation_from",
    "score",
    "told_to_hold_out",
    "write_embeddings",
]
