"""TorchJD's weightings as rules."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any, get_args, get_origin

import numpy as np
import torch
from torch import Tensor, nn

from .base import GramianRule, RandomRule, Reduce, StackRule, Weights, alone

if TYPE_CHECKING:
    from torchjd.aggregation import Aggregator, Weighting

BY_COUNT = ("MeanWeighting", "SumWeighting", "ConstantWeighting", "RandomWeighting")
BY_FACTOR = ("_NashMTLWeighting", "ConFIG")
BY_COMPONENT = ("GradDrop", "TrimmedMean")


def from_torchjd(
    weighting: Weighting[Any] | Aggregator, generator: torch.Generator | None = None
) -> TorchJDRule | TorchJDComponents:
    """Make a rule of a TorchJD weighting or aggregator that looks at the Gramian or at components.

    update = Σ_e w_e g_e,  w = weighting(G Gᵀ);  Quinton & Rey, arXiv 2406.16232.

    GradDrop and TrimmedMean combine each component's K values. All others have weights that follow
    from the Gramian: every ``Weighting[PSDMatrix]``, yours too, Mean, Sum, Constant, Random,
    Nash-MTL, ConFIG, and CRMOGM around these. Ours: Nash-MTL and ConFIG, which ask for G, get a
    factor F with F Fᵀ = G Gᵀ; random numbers come from ``generator`` as they would from the global
    one; a non-finite Gramian gives NaN weights without a call.

    The weighting is shared, not copied: change its settings or call its ``reset`` at any time. Its
    state is part of ``state_dict``, in a weighting of your own if it is in buffers. What it knows
    by row (Constant, PCD, GradVac, …) goes by the order in which domains come in a step.

    Args:
        weighting: such as ``UPGradWeighting()`` or ``UPGrad()``; its tensors on the CPU.
        generator: on the CPU; without one, a generator with seed 0.

    Raises:
        ImportError: TorchJD is not installed.
        TypeError: it needs more (ExcessMTL squares of components, MoDo and SDMGrad two batches), or
            is not of TorchJD.
        ValueError: a generator that is not on the CPU.

    >>> from torchjd.aggregation import UPGrad
    >>> from_torchjd(UPGrad())(torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]))
    tensor([0.2929, 1.9004, 1.9004])
    """
    try:
        from torchjd import aggregation  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise ImportError("from_torchjd needs TorchJD; run `pip install torchjd`.") from error

    taken: Any = weighting
    if type(weighting).__name__ in BY_COMPONENT and isinstance(weighting, aggregation.Aggregator):
        return TorchJDComponents(weighting, generator)
    if isinstance(weighting, aggregation.GramianWeightedAggregator):
        return TorchJDRule(weighting, weighting.gramian_weighting, generator)
    if isinstance(weighting, aggregation.WeightedAggregator):
        taken = weighting.weighting
    innermost = taken
    while type(innermost).__name__ == "CRMOGMWeighting":
        innermost = innermost.weighting
    name = type(innermost).__name__
    if _statistic(innermost, aggregation.Weighting) == "PSDMatrix":
        return TorchJDRule(weighting, taken, generator)
    if name in BY_COUNT:
        return _ByCount(weighting, taken, generator)
    if name in BY_FACTOR:
        if isinstance(taken, aggregation.Weighting):
            taken = aggregation.WeightedAggregator(taken)
        return _ByFactor(weighting, taken, generator)
    found = f"the class {weighting.__name__}" if isinstance(weighting, type) else name
    raise TypeError(
        f"from_torchjd expects a TorchJD weighting or aggregator whose weights follow from the "
        f"Gramian, such as UPGradWeighting(); found {found}. Derive a weighting of your own from "
        f"Weighting[PSDMatrix]; use one that needs components or several batches with TorchJD."
    )


def _require_on_cpu(generator: torch.Generator | None) -> None:
    if generator is not None and generator.device.type != "cpu":
        raise ValueError(
            f"from_torchjd expects a generator on the CPU, where the weights are computed; "
            f"found one on {str(generator.device)!r}. Pass torch.Generator()."
        )


def _statistic(weighting: object, generic: type) -> str | None:
    """What a weighting takes, by name: X in its base ``Weighting[X]``."""
    for base in type(weighting).__mro__:
        for alias in vars(base).get("__orig_bases__", ()):
            if get_origin(alias) is generic:
                return getattr(get_args(alias)[0], "__name__", None)
    return None


class _FromTorchJD(RandomRule):
    """A rule that says where it comes from."""

    source: nn.Module

    def __repr__(self) -> str:
        described, kind = repr(self.source), type(self.source)
        if kind.__repr__ is nn.Module.__repr__:
            names = [name for name in signature(kind).parameters if hasattr(self.source, name)]
            arguments = ", ".join(f"{name}={getattr(self.source, name)!r}" for name in names)
            described = f"{kind.__name__}({arguments})"
        return f"from_torchjd({' '.join(described.split())})"


class TorchJDComponents(_FromTorchJD, StackRule):
    """What :func:`from_torchjd` returns of an aggregator of single components.

    Ours: each call is seeded from the generator, so that it draws alike on every device.
    """

    def __init__(self, source: nn.Module, generator: torch.Generator | None) -> None:
        _require_on_cpu(generator)
        self.source, self.generator = source, generator

    def combine(self, gradients: Tensor) -> Tensor:
        """TorchJD's update."""
        own = self._generator_on(torch.device("cpu"))
        seed = int(torch.randint(2**62, (1,), generator=own))
        devices = [gradients.device] if gradients.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            update: Tensor = self.source(gradients)
        return update + (gradients * 0).sum(0)


class TorchJDRule(_FromTorchJD, GramianRule):
    """What :func:`from_torchjd` returns of what looks at the Gramian."""

    _precision = torch.float64

    def __init__(
        self, source: nn.Module, weighting: nn.Module, generator: torch.Generator | None
    ) -> None:
        _require_on_cpu(generator)
        self.source, self.weighting, self.generator = source, weighting, generator

    def weigh(self, rows: Sequence[Tensor], reduce: Reduce = alone) -> Weights:
        """The weights, in the precision of the gradients."""
        self._precision = max({row.dtype for row in rows}, key=lambda d: torch.finfo(d).eps)
        return super().weigh(rows, reduce)

    def weights(self, gramian: Tensor) -> Tensor:
        """TorchJD's weights."""
        if not gramian.isfinite().all():
            return torch.full_like(gramian.diagonal(), math.nan)
        generator = self._generator_on(torch.device("cpu"))
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.set_rng_state(generator.get_state())
            try:
                weights = self._weights_by_torchjd(self._rounded(gramian))
            except Exception as error:
                error.add_note(f"Raised by {self} on the gradients of {len(gramian)} domains.")
                raise
            generator.set_state(torch.get_rng_state())
        return weights.detach().to(gramian)

    def _rounded(self, gramian: Tensor) -> Tensor:
        """In the gradients' dtype, whose eps tells TorchJD which eigenvalues are but rounding."""
        squares, limits = gramian.diagonal(), torch.finfo(self._precision)
        fits = (squares == 0) | ((squares >= limits.tiny) & (squares <= limits.max))
        return gramian.to(self._precision) if fits.all() else gramian

    def _weights_by_torchjd(self, gramian: Tensor) -> Tensor:
        weights: Tensor = self.weighting(gramian)
        return weights

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold: the generator's state and the weighting's."""
        memory = {place: _saved(getattr(module, name)) for place, module, name in self._memory()}
        return {**super().state_dict(), "weighting": memory}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            ValueError: the state is that of another weighting.
        """
        saved, expected = state.get("weighting", {}), [place for place, _, _ in self._memory()]
        if sorted(saved) != sorted(expected):
            raise ValueError(
                f"{self} expects a state with {sorted(expected)}; found {sorted(saved)}. Load it "
                f"into a rule made of the same weighting."
            )
        super().load_state_dict({key: state[key] for key in state if key != "weighting"})
        for place, module, name in self._memory():
            value = _saved(saved[place])
            if name == "step":
                # Nash-MTL solves at multiples of update_weights_every and builds its problem, which
                # cannot be saved, at 0: counted so that the next solution is due at 0.
                value = -(-value % module.update_weights_every)
            is_array = isinstance(getattr(module, name), np.ndarray)
            setattr(module, name, value.numpy() if is_array else value)

    def _memory(self) -> Iterator[tuple[str, nn.Module, str]]:
        """Where the weighting keeps its state: in buffers, some of TorchJD's in attributes too."""
        for path, module in self.weighting.named_modules():
            attributes = vars(module).keys() & {"_state_key", "step", "prvs_alpha"}
            for name in sorted(module._buffers.keys() | attributes):
                yield f"{path}.{name}", module, name


class _ByCount(TorchJDRule):
    """Weights that depend on the number of domains alone."""

    minimum_domains = 1


class _ByFactor(TorchJDRule):
    """An aggregator of matrices: to rotate the rows rotates its update, with the same weights."""

    def _weights_by_torchjd(self, gramian: Tensor) -> Tensor:
        """The weights that make the update of a factor of the Gramian from its rows."""
        norms = gramian.diagonal().double().sqrt().unsqueeze(1)
        if not norms.any():
            return norms.squeeze(1)  # Nash-MTL would divide by the norm of the Gramian.
        divisors = torch.where(norms > 0, norms, 1.0)
        values, vectors = torch.linalg.eigh(gramian.double() / divisors / divisors.T)
        kept = values > len(gramian) * torch.finfo(gramian.dtype).eps * values[-1]
        units = vectors[:, kept] * values[kept].sqrt()
        update = super()._weights_by_torchjd((norms * units).to(gramian)).double()
        weights: Tensor = torch.linalg.pinv(units.T) @ update / divisors.squeeze(1)
        return weights


def _saved(value: Any) -> Any:
    value = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
    return value.detach().cpu().clone() if isinstance(value, Tensor) else value
