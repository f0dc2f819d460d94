"""Rules: what to do with the gradients of K domains. Pure tensor maths that knows no model."""

from .agr import AgrRand, AgrSum
from .and_mask import ANDMask
from .base import ElementwiseRule, GramianRule, Proposal, Reduce, Rule, StackRule, Whole
from .mean import Mean
from .pcgrad import PCGrad
from .robust import Median, TrimmedMean
from .sand_mask import SANDMask
from .statistics import Statistic, Statistics, statistics_of
from .torchjd import from_torchjd

__all__ = [
    "ANDMask",
    "AgrRand",
    "AgrSum",
    "ElementwiseRule",
    "GramianRule",
    "Mean",
    "Median",
    "PCGrad",
    "Proposal",
    "Reduce",
    "Rule",
    "SANDMask",
    "StackRule",
    "Statistic",
    "Statistics",
    "TrimmedMean",
    "Whole",
    "from_torchjd",
    "statistics_of",
]
