"""Rules of operators: one file a family. :func:`rule` registers one for an operator of your own."""

from . import (
    attention,
    constants,
    convolutions,
    elementwise,
    norms,
    positions,
    products,
    reductions,
    selections,
    views,
)
from .registry import RULES, Call, Outcome, Placements, TakesTurns, UnprovableError, rule

__all__ = [
    "RULES",
    "Call",
    "Outcome",
    "Placements",
    "TakesTurns",
    "UnprovableError",
    "attention",
    "constants",
    "convolutions",
    "elementwise",
    "norms",
    "positions",
    "products",
    "reductions",
    "rule",
    "selections",
    "views",
]
