"""Coordinate-wise median and trimmed mean, of Byzantine-robust optimization."""

from __future__ import annotations

from torch import Tensor

from .base import StackRule


class Median(StackRule):
    """The median of the K values of each component.

    update = med_e g_e, the mean of the two middle values for even K

    Yin et al., arXiv 1803.01498, §4 (Option I), there against workers that lie. Ours: that it
    serves domains, of which one may be far from all others. A non-finite value of any domain is
    NaN in the update.

    >>> import torch
    >>> Median()(torch.tensor([[1.0, -2.0], [3.0, 3.0], [100.0, 4.0]]))
    tensor([3., 3.])
    """

    def combine(self, gradients: Tensor) -> Tensor:
        """The middle of the sorted values."""
        ordered, count = gradients.sort(0).values, len(gradients)
        middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
        return middle + (gradients * 0).sum(0)


class TrimmedMean(StackRule):
    """The mean of the K values of each component without its smallest and largest ones.

    update = (1/(K − 2b)) Σ of the sorted g_e without the b smallest and the b largest,
    b = ⌊β K⌋

    Yin et al., arXiv 1803.01498, §4 (Option II). With β = 0 it is the mean. A non-finite value of
    any domain is NaN in the update.

    Args:
        beta: share β in [0, 1/2) that is cut at either end.

    Raises:
        ValueError: β outside [0, 1/2).

    >>> import torch
    >>> TrimmedMean(0.25)(torch.tensor([[1.0], [3.0], [5.0], [100.0]]))
    tensor([4.])
    """

    def __init__(self, beta: float = 0.25) -> None:
        if not 0.0 <= beta < 0.5:
            raise ValueError(
                f"TrimmedMean needs 0 ≤ beta < 0.5, the share of domains that is cut at either "
                f"end; found {beta}."
            )
        self.beta = beta

    def combine(self, gradients: Tensor) -> Tensor:
        """The mean of what is left of the sorted values."""
        count = len(gradients)
        cut = int(self.beta * count)
        kept = gradients.sort(0).values[cut : count - cut]
        return kept.mean(0) + (gradients * 0).sum(0)
