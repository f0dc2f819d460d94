"""Pooling, padding, resizing: each image, or each channel, by itself."""

from __future__ import annotations

import torch

from ..layout import Sampled
from .registry import Call, Outcome, operators, rule

aten = torch.ops.aten

SPATIAL = {
    "avg_pool1d": 1, "avg_pool2d": 2, "avg_pool3d": 3,
    "max_pool2d_with_indices": 2, "max_pool3d_with_indices": 3,
    "_adaptive_avg_pool2d": 2, "_adaptive_avg_pool3d": 3, "adaptive_avg_pool1d": 1,
    "adaptive_max_pool2d": 2, "adaptive_max_pool3d": 3,
    "fractional_max_pool2d": 2, "fractional_max_pool3d": 3,
    "reflection_pad1d": 1, "reflection_pad2d": 2, "reflection_pad3d": 3,
    "replication_pad1d": 1, "replication_pad2d": 2, "replication_pad3d": 3,
    "upsample_nearest1d": 1, "upsample_nearest2d": 2, "upsample_nearest3d": 3,
    "_upsample_nearest_exact1d": 1, "_upsample_nearest_exact2d": 2, "_upsample_nearest_exact3d": 3,
    "upsample_linear1d": 1, "upsample_bilinear2d": 2, "upsample_bicubic2d": 2,
    "upsample_trilinear3d": 3, "_upsample_bilinear2d_aa": 2, "_upsample_bicubic2d_aa": 2,
    "im2col": 3, "col2im": 2, "channel_shuffle": 3, "native_channel_shuffle": 3,
    "grid_sampler_2d": 3, "grid_sampler_3d": 4, "max_unpool2d": 2, "max_unpool3d": 2,
}  # fmt: skip
"""Last dimensions that are looked at together, by operator; so it is for the way back."""


def _by_image(call: Call) -> Outcome:
    name = call.op.overloadpacket.__name__.removesuffix("_backward")
    axes = [call.at(t) for t in call.sampled]
    axis = axes[0]
    assert isinstance(axis, Sampled)
    if len(axes) != len(call.tensors) or any(a != axis for a in axes):
        raise call.mixes()
    if any(axis.dim >= len(call.shape(t)) - SPATIAL[name] for t in call.sampled):
        raise call.mixes()
    results = call.node.meta["val"]
    return Outcome(tuple(axis for _ in results) if isinstance(results, (tuple, list)) else axis)


for _name in SPATIAL:
    for _operator in operators(_name, f"{_name}_backward"):
        rule(_operator)(_by_image)
