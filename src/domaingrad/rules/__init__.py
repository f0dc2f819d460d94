"""Rules: what to do with the gradients of K domains. Pure tensor maths that knows no model.

How to write one: :mod:`domaingrad.rules.authoring`.
"""

from . import authoring
from .agr import AgrRand, AgrSum
from .and_mask import ANDMask
from .base import Rule
from .mean import Mean
from .pcgrad import PCGrad
from .robust import Median, TrimmedMean
from .sand_mask import SANDMask
from .torchjd import from_torchjd

__all__ = [
    "ANDMask",
    "AgrRand",
    "AgrSum",
    "Mean",
    "Median",
    "PCGrad",
    "Rule",
    "SANDMask",
    "TrimmedMean",
    "authoring",
    "from_torchjd",
]
