"""Bench: data of several domains, methods, an honest protocol, runs and reports."""

from . import register
from .entry import train

__all__ = ["register", "train"]
