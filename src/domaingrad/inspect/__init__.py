"""Inspect: where the domains' gradients agree and where they conflict."""

from .agreement import sign_agreement
from .conflict import Conflict, ConflictWatch, Relation, conflict
from .plots import plot_conflict, plot_watch
from .similarity import Interval, Similarity, similarity

__all__ = [
    "Conflict",
    "ConflictWatch",
    "Interval",
    "Relation",
    "Similarity",
    "conflict",
    "plot_conflict",
    "plot_watch",
    "sign_agreement",
    "similarity",
]
