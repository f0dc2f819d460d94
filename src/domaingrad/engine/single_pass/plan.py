"""What is known of a model before it runs: where the samples lie in each call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .interception import Kind, Site
from .units import Axis


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the samples lie in the tensors of a call, arguments and results, each in order."""

    arguments: tuple[Axis | None, ...]
    results: tuple[Axis | None, ...]

    def fits(self, tensors: Sequence[Tensor], samples: int) -> bool:
        """Whether arguments can have their samples there."""
        return len(tensors) == len(self.arguments) and all(
            axis is None or axis.fits(tensor, samples)
            for tensor, axis in zip(tensors, self.arguments, strict=True)
        )

    def holds_samples(self, kinds: Sequence[Kind | None]) -> bool:
        """Whether any argument that is neither shared nor constant has an axis of samples."""
        return any(
            axis is not None and kind is None
            for kind, axis in zip(kinds, self.arguments, strict=True)
        )


@dataclass
class Plan:
    """What is known of a model: where the samples lie in each call."""

    layouts: dict[Site, Layout]
    comes_back: bool = False
    """Whether parts of the model run again on the way back (checkpoints)."""


class UnknownSiteError(Exception):
    """A call that the plan does not know: the model took another way than before."""

    def __init__(self, site: Site) -> None:
        super().__init__(f"the model takes another way each time (call of {site.function})")


class UnsupportedError(Exception):
    """A call that cannot be told apart unit by unit."""
