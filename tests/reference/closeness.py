"""How far rounding may take an update from the float64 reference."""

import numpy as np
import torch
from torch import Tensor

from .matrices import rows
from .rules import Array


def roundoff(dtype: torch.dtype) -> float:
    """Unit roundoff u of the dtype in which gradients of ``dtype`` are summed."""
    return 2.0**-53 if dtype == torch.float64 else 2.0**-24


def assert_close(
    update: Tensor,
    expected: Array,
    stack: Tensor,
    *,
    gain: float = 1.0,
    relative: float = 4.0,
) -> None:
    """Compare an update with its reference, per component.

    Args:
        update: what a rule made of ``stack``.
        expected: its reference, flat.
        stack: the gradients [K, *shape].
        gain: largest factor of the rule on the mean gradient. Summing K numbers of size ≤ max|g|
            is off by at most K·u·max|g| in the mean, whatever cancels, and the gain multiplies it.
        relative: rounding after the sum, in units of u.
    """
    assert update.dtype == stack.dtype
    assert update.shape == stack.shape[1:]
    u = roundoff(stack.dtype)
    information = torch.finfo(stack.dtype)
    largest = np.abs(rows(stack)).max(axis=0)
    atol = 2 * len(stack) * u * gain * largest + information.smallest_normal * information.eps
    # Half precision is rounded once more on the way out, by half its eps.
    rtol = relative * u + (information.eps / 2 if information.bits == 16 else 0.0)
    error = np.abs(update.double().flatten().numpy() - expected)
    bound = atol + rtol * np.abs(expected)
    assert (error <= bound).all(), (
        f"update {update.flatten().tolist()}\nreference {expected.tolist()}\n"
        f"error / bound {(error / bound).tolist()} for gradients up to {largest.max():.1e}"
    )
