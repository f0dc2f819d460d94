"""Collective calls: under names that PyTorch has changed, and of values that are no tensors."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def all_gather(into: Tensor, own: Tensor, **options: Any) -> Any:
    """One tensor from every process into one; its name before PyTorch 2.13 is the longer one."""
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    return gather(into, own, **options)


def broadcast_value(value: Any) -> Any:
    """What the first process has: tensors, numbers, texts, and dicts, lists and tuples of them.

    Read without running any code that bytes might name, as pickles do.
    """
    first, device = dist.get_rank() == 0, _device(None)
    content = _packed(value, device) if first else torch.empty(0, dtype=torch.uint8, device=device)
    size = torch.tensor([len(content)], device=device)
    dist.broadcast(size, 0)
    content = content if first else content.new_empty(int(size))
    dist.broadcast(content, 0)
    return value if first else _unpacked(content)


def gather_values(own: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """What each process of a group has, by rank; as :func:`broadcast_value`."""
    device = _device(group)
    content = _packed(own, device)
    world = dist.get_world_size(group)
    sizes = [torch.zeros(1, dtype=torch.long, device=device) for _ in range(world)]
    dist.all_gather(sizes, torch.tensor([len(content)], device=device), group=group)
    lengths = [int(size) for size in sizes]
    padded = content.new_zeros(max(lengths))
    padded[: len(content)] = content
    found = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(found, padded, group=group)
    return [_unpacked(each[:length]) for each, length in zip(found, lengths, strict=True)]


def _device(group: dist.ProcessGroup | None) -> torch.device:
    """Where the group's backend takes tensors."""
    on_gpu = dist.get_backend(group) == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")


def _packed(value: Any, device: torch.device) -> Tensor:
    buffer = BytesIO()
    torch.save(value, buffer)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8).to(device)


def _unpacked(content: Tensor) -> Any:
    return torch.load(BytesIO(content.cpu().numpy().tobytes()), "cpu", weights_only=True)
