"""Inspect: where the domains' gradients agree and where they conflict."""

from .agreement import sign_agreement
from .conflict import Conflict, ConflictWatch, Relation, conflict

__all__ = ["Conflict", "ConflictWatch", "Relation", "conflict", "sign_agreement"]
