"""A method of the literature that is none of this package, as short as its learner allows."""

from . import swad

SKETCHES = {swad.SWAD.info.name: swad.SWAD()}
"""By name."""
