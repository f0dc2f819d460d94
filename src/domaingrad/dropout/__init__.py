"""Dropout guided by the signal-to-noise ratio of the gradients."""

from .gsnr import GSNRDropout, Over, Scope
from .ranking import Select
from .ratio import LearnedRatio

__all__ = ["GSNRDropout", "LearnedRatio", "Over", "Scope", "Select"]
