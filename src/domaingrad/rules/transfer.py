"""Copies between host and device that nobody waits for."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; from the host by way of pinned memory, so that the host goes on."""
    if tensor.device == device:
        return tensor
    if tensor.device.type == "cpu" and device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def to_host(tensor: Tensor) -> tuple[Tensor, torch.Event | None]:
    """A tensor's copy on the host, and what tells when it has arrived; ``None`` if it has."""
    if tensor.device.type == "cpu":
        return tensor, None
    pinned = tensor.device.type == "cuda"
    copy = torch.empty_like(tensor, device="cpu", pin_memory=pinned)
    copy.copy_(tensor, non_blocking=True)
    event = torch.Event(tensor.device)
    event.record()
    return copy, event
