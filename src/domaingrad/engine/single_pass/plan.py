"""What is known of a model before it runs: where the samples lie in each call."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

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

    layouts: dict[Site, list[Layout]]
    ways: set[tuple[str, str]]
    """Which function was called after which, in the passes that were examined."""
    losses: set[Hashable] = field(default_factory=set)
    """The kinds of losses that were seen not to mix domains."""
    comes_back: bool = False
    """Whether parts of the model run again on the way back (checkpoints)."""

    def add(self, other: Plan) -> None:
        """Take in what another examination found."""
        for site, layouts in other.layouts.items():
            known = self.layouts.setdefault(site, [])
            known += [layout for layout in layouts if layout not in known]
        self.ways |= other.ways
        self.comes_back |= other.comes_back


class UnknownSiteError(Exception):
    """A call that the plan does not know: the model took another way than before."""

    def __init__(self, what: Site | str) -> None:
        called = what if isinstance(what, str) else f"call of {what.function}"
        super().__init__(f"the model takes another way each time ({called})")


class UnsupportedError(Exception):
    """A call that cannot be told apart unit by unit."""
