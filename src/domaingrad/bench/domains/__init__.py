"""Domains: data sets whose samples come from several named domains."""

from .base import DataSet, Domains, Recipe, Task, correct, losses
from .digits import COLORED_DIGITS, ROTATED_DIGITS
from .linear_toy import LINEAR_TOY
from .spirals import SPIRALS

DATA_SETS: dict[str, DataSet] = {
    data.name: data for data in (SPIRALS, LINEAR_TOY, COLORED_DIGITS, ROTATED_DIGITS)
}
"""Every data set by name."""

__all__ = ["DATA_SETS", "DataSet", "Domains", "Recipe", "Task", "correct", "losses"]
