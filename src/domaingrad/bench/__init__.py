"""Bench: data of several domains, methods, an honest protocol, runs and reports."""

from .entry import train

__all__ = ["train"]
