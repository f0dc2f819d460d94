"""Names that PyTorch has changed."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import Tensor


def all_gather(into: Tensor, own: Tensor, **options: Any) -> Any:
    """One tensor from every process into one; its name before PyTorch 2.13 is the longer one."""
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    return gather(into, own, **options)
