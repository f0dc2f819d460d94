"""The share that is dropped, learned by a virtual step on some domains and its test on others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map_only

from domaingrad.engine.batch import Batch, select

from .masking import Masking
from .ranking import Ranking

TEST_SHARE = 1 / 3
"""Share of the source domains that the virtual step is tested on: one of two to four."""


@dataclass(frozen=True)
class LearnedRatio:
    """How the dropped share p of each weight is learned; our reading of the method.

    p = ``largest`` · σ(φ), and φ follows the gradient of the meta-test loss by Adam (ours: the size
    of that gradient means little, since it grows with ``virtual_rate`` and the model's slopes).

    Args:
        start: p at the start, in (0, ``largest``).
        largest: the most that can be dropped, below 1.
        rate: Adam's learning rate for φ; a step changes φ by about as much.
        virtual_rate: α, the learning rate of the virtual step.
        temperature: T of the soft mask, in shares of the ranking: components within a few T of
            the threshold tell whether p should move.

    Raises:
        ValueError: numbers outside these bounds.
    """

    start: float = 1 / 3
    largest: float = 0.9
    rate: float = 0.02
    virtual_rate: float = 0.1
    temperature: float = 0.05

    def __post_init__(self) -> None:
        if not 0.0 < self.start < self.largest < 1.0:
            raise ValueError(
                f"LearnedRatio needs 0 < start < largest < 1; found start {self.start:g}, largest "
                f"{self.largest:g}."
            )
        for name in ("rate", "virtual_rate", "temperature"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"LearnedRatio needs {name} > 0; found {getattr(self, name):g}.")


class Ratios:
    """The learned ratios of several weights, or one for all.

    Args:
        settings: how they are learned.
        count: number of ratios.
    """

    def __init__(self, settings: LearnedRatio, count: int) -> None:
        self.settings = settings
        start = settings.start / settings.largest
        self._phi = torch.full((count,), start, dtype=torch.float64).logit().requires_grad_()
        self._adam = torch.optim.Adam([self._phi], settings.rate)

    def values(self) -> list[float]:
        """P of each."""
        return self._p().tolist()

    def move(self, slopes: Tensor) -> None:
        """One step of φ against the slopes of the meta-test loss with respect to p."""
        self._phi.grad = None
        self._p().backward(slopes.to(self._phi))  # type: ignore[no-untyped-call]
        self._adam.step()

    def _p(self) -> Tensor:
        return self.settings.largest * self._phi.sigmoid()

    def state_dict(self) -> dict[str, Any]:
        """φ and Adam's state."""
        return {"phi": self._phi.detach().clone(), "adam": self._adam.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        if state["phi"].shape != self._phi.shape:
            raise ValueError(
                f"the saved state has {len(state['phi'])} learned ratios; found {len(self._phi)} "
                f"here. Make GSNRDropout with the layers and scope of the saved one."
            )
        with torch.no_grad():
            self._phi.copy_(state["phi"])
        self._adam.load_state_dict(state["adam"])


@dataclass(frozen=True)
class SubsetLoss:
    """The mean over some domains of their mean losses, on those samples alone.

    Args:
        inputs: of all N samples, as the model takes them.
        losses: from outputs for all N samples to one loss each.
        batch: which sample belongs to which domain.
    """

    inputs: Any
    losses: Callable[[Any], Tensor]
    batch: Batch

    def __call__(self, forward: Callable[[Any], Any], domains: Sequence[int]) -> Tensor:
        """The loss of what ``forward`` makes of the samples of these domains."""
        rows = torch.cat([self.batch.rows[index] for index in domains])

        def spread(tensor: Tensor) -> Tensor:
            """Outputs for all N samples, of which those of other domains are never looked at."""
            if tensor.ndim == 0 or len(tensor) != len(rows):
                return tensor
            whole = tensor.detach()[:1].expand(self.batch.size, *tensor.shape[1:])
            return whole.index_copy(0, rows.to(tensor.device), tensor)

        outputs = tree_map_only(Tensor, spread, forward(select(self.inputs, rows)))
        losses = self.losses(outputs)
        means = [losses[self.batch.rows[index].to(losses.device)].mean() for index in domains]
        return torch.stack(means).mean()


def split_domains(count: int, generator: Generator) -> tuple[list[int], list[int]]:
    """Meta-train and meta-test domains, drawn at random: two and one of three, say."""
    order = torch.randperm(count, generator=generator, device=generator.device).tolist()
    test = max(1, round(count * TEST_SHARE))
    return sorted(order[test:]), sorted(order[:test])


def slopes_of_masks(
    model: nn.Module,
    forward: Callable[[Callable[..., Any], Any], Any],
    masking: Masking,
    factors: Sequence[Tensor],
    loss: SubsetLoss,
    domains: tuple[Sequence[int], Sequence[int]],
    rate: float,
) -> list[Tensor]:
    """∂L_test(θ')/∂M, with θ' = θ − α ∇L_train(θ ⊙ M) and L_test at the unmasked θ'.

    Args:
        model: the model.
        forward: how it is called, or what stands in for it, on inputs.
        masking: of its weights.
        factors: M, each of its weight's shape.
        loss: of some domains' samples.
        domains: meta-train and meta-test.
        rate: α.
    """
    train, test = domains
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    leaves = [factor.detach().requires_grad_() for factor in factors]
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # others cannot be gone back twice
        with _by(masking, leaves):
            training_loss = loss(lambda inputs: forward(model, inputs), train)
            gradients = torch.autograd.grad(
                training_loss, list(named.values()), create_graph=True, allow_unused=True
            )
        moved = {
            name: parameter if gradient is None else parameter - rate * gradient
            for (name, parameter), gradient in zip(named.items(), gradients, strict=True)
        }
        with masking.suspended():
            test_loss = loss(lambda inputs: forward(_with(model, moved), inputs), test)
        slopes = torch.autograd.grad(test_loss, leaves, allow_unused=True)
    return [
        torch.zeros_like(leaf) if slope is None else slope
        for leaf, slope in zip(leaves, slopes, strict=True)
    ]


def _with(model: nn.Module, parameters: dict[str, Tensor]) -> Callable[..., Any]:
    """The model with other parameters."""
    return lambda *args, **options: functional_call(model, parameters, args, options)


@contextmanager
def _by(masking: Masking, factors: Sequence[Tensor]) -> Iterator[None]:
    """Let the masks multiply by these factors."""
    for mask, factor in zip(masking.masks, factors, strict=True):
        mask.factors = factor
    try:
        yield
    finally:
        for mask in masking.masks:
            mask.factors = None


def slope_of_ratio(
    slopes: Tensor, ranking: Ranking, ratio: float, temperature: float, rescale: bool
) -> Tensor:
    """Σ_j ∂L/∂M_j · ∂M_j/∂p, straight through the hard mask; float64.

    The soft mask is M̃ = σ(((1 − p) − u)/T), so ∂M̃/∂p = −M̃ (1 − M̃)/T. With ``rescale`` the mask
    is M/(1 − p), so its derivative is (∂M̃/∂p)/(1 − p) + M/(1 − p)².

    Args:
        slopes: ∂L/∂M.
        ranking: the components' ranks u.
        ratio: p.
        temperature: T.
        rescale: whether what is kept is divided by 1 − p.
    """
    u = ranking.ranks
    soft = ((1.0 - ratio - u) / temperature).sigmoid()
    by_ratio = soft * (soft - 1.0) / temperature
    if rescale:
        by_ratio = by_ratio / (1.0 - ratio) + (u <= 1.0 - ratio).to(u) / (1.0 - ratio) ** 2
    sums = torch.bincount(ranking.bins.flatten(), slopes.flatten(), minlength=len(u))
    return (sums * by_ratio).sum()
