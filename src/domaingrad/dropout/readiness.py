"""Whether a model is as it was when its weights were masked, and can be updated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from domaingrad.engine.distributed.shards import is_spread

from .layers import Target


def require_ready(model: nn.Module, targets: Sequence[Target]) -> None:
    """Refuse what would be silently wrong.

    Raises:
        RuntimeError: weights that are spread over processes, inference mode, a model that has
            changed, a masked layer in evaluation mode, or a frozen weight.
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "update takes gradients, which torch.inference_mode() rules out; call it outside."
        )
    if any(is_spread(target.parameter.data) for target in targets):
        raise RuntimeError(
            "the weights are spread over processes by fully_shard, and GSNRDropout ranks whole "
            "ones; use DistributedDataParallel."
        )
    modules = set(model.modules())
    for target in targets:
        for place in target.places:
            if place.module not in modules or (
                place.module._parameters.get(place.attribute) is not target.parameter
            ):
                raise RuntimeError(
                    f"the model has changed since GSNRDropout was made: {target.name!r} is no "
                    f"longer the weight it was. Call remove() and make a new GSNRDropout."
                )
            if not place.module.training:
                raise RuntimeError(
                    f"update needs the masked layers in training mode, where the mask has an "
                    f"effect; found {target.name!r} in evaluation mode. Call model.train(), or "
                    f"name the layers that train in GSNRDropout(layers=…)."
                )
        if not target.parameter.requires_grad:
            raise RuntimeError(
                f"the model has changed since GSNRDropout was made: {target.name!r} is frozen "
                f"now. Call remove() and make a new GSNRDropout, which will leave it out."
            )
