"""What an author of a rule needs, and a user of one does not."""

from .base import (
    ElementwiseRule,
    GramianRule,
    Proposal,
    RandomRule,
    Reduce,
    StackRule,
    Weights,
    Whole,
)
from .statistics import Statistic, Statistics, statistics_of

__all__ = [
    "ElementwiseRule",
    "GramianRule",
    "Proposal",
    "RandomRule",
    "Reduce",
    "StackRule",
    "Statistic",
    "Statistics",
    "Weights",
    "Whole",
    "statistics_of",
]
