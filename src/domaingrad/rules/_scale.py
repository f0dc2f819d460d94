"""The scale of the masking rules: divide by the share of a tensor that the mask keeps."""

from __future__ import annotations

from torch import Tensor

FLOOR = 1e-10
"""Added to the kept share, as in DomainBed, so that a mask of zeros gives an update of zeros."""


def kept_share(tally: Tensor) -> Tensor:
    """1e-10 + mean of the mask, from its sum and the number of components."""
    kept, components = tally.unbind()
    return kept / components + FLOOR
