"""Fused attention."""

from __future__ import annotations

from typing import Any

import torch

from ..layout import Sampled, Shared
from .registry import Call, Outcome, operators, rule


@rule(*operators(
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention_for_cpu_backward",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_backward",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_efficient_attention_backward",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_cudnn_attention_backward",
    "_scaled_dot_product_fused_attention_overrideable",
    "_scaled_dot_product_fused_attention_overrideable_backward",
))  # fmt: skip
def attention(call: Call) -> Outcome:
    """[N, heads, positions, width]: each sample, or each head, by itself."""
    axes = [call.at(t) for t in call.sampled]
    axis = axes[0]
    if any(a != axis for a in axes) or not isinstance(axis, Sampled) or axis.dim > 1:
        raise call.mixes()
    for tensor in call.tensors:
        placement, shape = call.at(tensor), call.shape(tensor)
        if isinstance(placement, Sampled) or len(shape) < 3 or shape[axis.dim] == 1:
            continue
        if not (isinstance(placement, Shared) and axis.dim in placement.free):
            raise call.refuse("attends to a tensor that has one entry a sample")
    return Outcome(tuple(_result(value, axis) for value in call.node.meta["val"]))


def _result(value: Any, axis: Sampled) -> Any:
    # Logarithms of sums lack the last dimension; the state of random numbers has at most one.
    return axis if isinstance(value, torch.Tensor) and value.ndim >= 3 else Shared()
