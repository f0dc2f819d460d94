"""Names that PyTorch has changed."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

all_gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
"""One tensor from every process into one tensor; its name before PyTorch 2.13 is the longer one."""
