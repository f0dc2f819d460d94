"""A face anti-spoofing data set of invented faces, recaptured by the physics of print and screen.

Four cameras, O, C, I and M, see live faces, printed photographs and replayed videos of them. The
letters are those of the licensed sets in wide use, but nothing of these sets is in the pictures.
Within each domain exposure, warmth, defocus, the wall behind and the framing go with the class; in
other domains they go the other way. The marks of recapture tell the class everywhere.
"""

from .dataset import write_fas_synthetic
from .sheet import sample_sheet

__all__ = ["sample_sheet", "write_fas_synthetic"]
