"""Dropout guided by the signal-to-noise ratio of the gradients."""

from .gsnr import GSNRDropout, Scope
from .ranking import Select
from .ratio import LearnedRatio
from .scoring import Over

__all__ = ["GSNRDropout", "LearnedRatio", "Over", "Scope", "Select"]
