"""The scale of the masking rules: divide by the share of a tensor that the mask keeps."""

from __future__ import annotations

import torch
from torch import Tensor

FLOOR = 1e-10
"""Added to the kept share, as in DomainBed, so that a mask of zeros gives an update of zeros."""


def tally_kept(mask: Tensor) -> Tensor:
    """[Σ mask, number of components], which add up over the shards of a tensor."""
    kept = mask.sum()
    return torch.stack([kept, kept.new_tensor(mask.numel())])


def kept_share(tally: Tensor) -> Tensor:
    """1e-10 + mean of the mask."""
    kept, components = tally.unbind()
    return kept / components + FLOOR
