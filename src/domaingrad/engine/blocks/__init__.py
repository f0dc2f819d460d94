"""Stacked gradients of some parameters at a time, and what takes them through a rule."""

from .block import Block, Part, capacity
from .kernels import Kernels
from .runner import Runner

__all__ = ["Block", "Kernels", "Part", "Runner", "capacity"]
