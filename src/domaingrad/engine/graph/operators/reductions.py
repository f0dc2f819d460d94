"""Operators that look along some dimensions, or sum them up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..layout import PerUnit, Sampled
from .registry import Call, Outcome, Placements, operators, rule

aten = torch.ops.aten


def _dims(call: Call, ndim: int) -> list[int]:
    given = call.args.get("dim")
    if given is None or given == []:
        return list(range(ndim))
    return [call.dim(d, ndim) for d in ([given] if isinstance(given, int) else given)]


@rule(
    *operators(
        "sum",
        "mean",
        "amax",
        "amin",
        "var",
        "std",
        "var_mean",
        "std_mean",
        "prod",
        "norm",
        "linalg_vector_norm",
        "logsumexp",
        "any",
        "all",
        "argmax",
        "argmin",
        "max",
        "min",
        "median",
        "nansum",
        "count_nonzero",
    )
)
def reduction(call: Call) -> Outcome:
    """One entry for all along some dimensions; a sum over samples is one a unit."""
    axis, shape = call.axis(), call.shape(call["self"])
    dims, keep = _dims(call, len(shape)), bool(call.args.get("keepdim", False))
    if axis.dim not in dims:
        found: Placements = axis if keep else axis.moved(axis.dim - sum(d < axis.dim for d in dims))
        results = call.node.meta["val"]
        return Outcome(
            tuple(found for _ in results) if isinstance(results, (tuple, list)) else found
        )
    if call.op.overloadpacket is not aten.sum or not call.in_backward or axis.repeated:
        raise call.mixes()
    return Outcome(PerUnit(), _Sum(axis, dims, keep))


class _Sum:
    """Sums over the samples of each unit, and over other dimensions."""

    def __init__(self, axis: Sampled, dims: Sequence[int], keep: bool) -> None:
        self._axis, self._dims, self._keep = axis, dims, keep

    def __call__(self, units: Any, x: Tensor, *_: Any, **kwargs: Any) -> Tensor:
        """[K, …]."""
        sums = self._axis.sums(x, units, self._dims)
        if self._keep:
            for dim in sorted(self._dims):
                sums = sums.unsqueeze(dim + 1)
        return sums


@rule(
    *operators(
        "_softmax",
        "_log_softmax",
        "_safe_softmax",
        "_softmax_backward_data",
        "_log_softmax_backward_data",
        "cumsum",
        "cumprod",
        "logcumsumexp",
        "sort",
        "topk",
        "cummax",
        "cummin",
        "argsort",
        "kthvalue",
        "mode",
    )
)
def along(call: Call) -> Outcome:
    """Looks along one dimension."""
    tensors = call.sampled
    axis = call.at(tensors[0])
    assert isinstance(axis, Sampled)
    if any(call.at(t) != axis for t in tensors) or len(tensors) != len(call.tensors):
        raise call.mixes()
    if call.dim(call["dim"], len(call.shape(tensors[0]))) == axis.dim:
        raise call.mixes()
    results = call.node.meta["val"]
    return Outcome(tuple(axis for _ in results) if isinstance(results, (tuple, list)) else axis)


@rule(*operators("_fft_r2c", "_fft_c2r", "_fft_c2c"))
def fourier(call: Call) -> Outcome:
    """Fourier transforms along some dimensions."""
    axis = call.axis()
    if axis.dim in [call.dim(d, len(call.shape())) for d in call["dim"]]:
        raise call.mixes()
    return Outcome(axis)


@rule(*operators("triu", "tril"))
def triangle(call: Call) -> Outcome:
    """Looks at the last two dimensions."""
    axis = call.axis()
    if axis.dim >= len(call.shape()) - 2:
        raise call.mixes()
    return Outcome(axis)
