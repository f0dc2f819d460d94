"""Operators that work entry by entry, with broadcasting."""

from __future__ import annotations

import torch

from ..layout import Sampled, Shared
from .registry import Call, Outcome, operators, require_alike, rule

aten = torch.ops.aten


def combined(call: Call) -> Sampled:
    """Where the samples lie in the broadcast of all tensors."""
    tensors = call.tensors
    ndim = max(len(call.shape(tensor)) for tensor in tensors)
    found: Sampled | None = None
    for tensor in call.sampled:
        placement = call.at(tensor)
        assert isinstance(placement, Sampled)
        own = placement.moved(placement.dim + ndim - len(call.shape(tensor)))
        if found is None:
            found = own
        elif (own.dim, own.outer, own.inner) != (found.dim, found.outer, found.inner):
            raise call.mixes()
        elif found.repeated:
            found = own
    assert found is not None
    require_alike(
        call, found.dim, [t for t in tensors if not isinstance(call.at(t), Sampled)], ndim
    )
    return found


def elementwise(call: Call) -> Outcome:
    """One result of the broadcast shape."""
    placement = combined(call)
    results = call.node.meta.get("val")
    if isinstance(results, (tuple, list)):
        return Outcome(tuple(placement for _ in results))
    return Outcome(placement)


for packet in operators(
    "_prelu_kernel",
    "_prelu_kernel_backward",
    "copy",
    "clone",
    "detach",
    "alias",
    "_to_copy",
    "lift_fresh_copy",
    "native_dropout",
    "native_dropout_backward",
    "bernoulli",
    "rand_like",
    "randn_like",
    "empty_like",
    "zeros_like",
    "ones_like",
    "full_like",
    "complex",
    "view_as_complex_copy",
    "fill",
    "leaky_relu_backward",
    "threshold_backward",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "mish",
    "softplus",
    "leaky_relu_backward",
    "elu_backward",
    "gelu_backward",
    "silu_backward",
    "mish_backward",
    "hardswish_backward",
    "hardsigmoid_backward",
    "hardtanh_backward",
    "hardshrink_backward",
    "softshrink_backward",
    "softplus_backward",
    "sigmoid_backward",
    "tanh_backward",
    "logit_backward",
    "log_sigmoid_forward",
    "log_sigmoid_backward",
    "rrelu_with_noise_backward",
    "rrelu_with_noise_functional",
):
    rule(packet)(elementwise)


@rule(*operators("nll_loss_forward", "nll_loss2d_forward"))
def losses(call: Call) -> Outcome:
    """One loss a sample."""
    if call["reduction"] != 0 or not _first(call, "self", "target"):
        raise call.mixes()
    return Outcome((Sampled(0), Shared()))


@rule(*operators("nll_loss_backward", "nll_loss2d_backward"))
def losses_backward(call: Call) -> Outcome:
    """Back from one loss a sample."""
    if call["reduction"] != 0 or not _first(call, "self", "target", "grad_output"):
        raise call.mixes()
    return Outcome(Sampled(0))


def _first(call: Call, *names: str) -> bool:
    return all(call.at(call[name]) == Sampled(0) for name in names)
