"""The share that is dropped, learned by a virtual step on some domains and its test on others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map_only

from domaingrad.engine.batch import Batch, select
from domaingrad.engine.visiting import check_losses
from domaingrad.rules.transfer import to_device

from .masking import Masking
from .ranking import Ranking, sums_of_bins

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
            if not 0.0 < getattr(self, name) < math.inf:
                raise ValueError(
                    f"LearnedRatio needs a finite {name} > 0; found {getattr(self, name):g}."
                )


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

    def __len__(self) -> int:
        return len(self._phi)

    def values(self) -> list[float]:
        """P of each."""
        return self._p().tolist()

    def move(self, slopes: Tensor) -> None:
        """One step of φ against the slopes of the meta-test loss with respect to p."""
        with torch.enable_grad():
            (self._phi.grad,) = torch.autograd.grad(self._p(), self._phi, slopes.to(self._phi))
        self._adam.step()

    def _p(self) -> Tensor:
        return self.settings.largest * self._phi.sigmoid()

    def state_dict(self) -> dict[str, Any]:
        """φ and Adam's state."""
        return {"phi": self._phi.detach().clone(), "adam": deepcopy(self._adam.state_dict())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        with torch.no_grad():
            self._phi.copy_(state["phi"])
        self._adam.load_state_dict(deepcopy(state["adam"]))


@dataclass(frozen=True)
class SubsetLoss:
    """The mean over some domains of their mean losses, on those samples alone.

    Args:
        inputs: of all N samples, as the model takes them.
        loss_fn: from outputs for all N samples to one loss each.
        batch: which sample belongs to which domain.
    """

    inputs: Any
    loss_fn: Callable[[Any], Tensor]
    batch: Batch

    def __call__(self, forward: Callable[[Any], Any], domains: Sequence[int]) -> Tensor:
        """The loss of what ``forward`` makes of the samples of these domains."""
        rows = torch.cat([self.batch.rows[index] for index in domains])

        def spread(tensor: Tensor) -> Tensor:
            """Outputs for all N samples, of which those of other domains are never looked at."""
            if tensor.ndim == 0 or len(tensor) != len(rows):
                return tensor
            whole = tensor.detach()[:1].expand(self.batch.size, *tensor.shape[1:])
            return whole.index_copy(0, to_device(rows, tensor.device), tensor)

        outputs = tree_map_only(Tensor, spread, forward(select(self.inputs, rows)))
        losses = self.loss_fn(outputs)
        check_losses(losses, self.batch.size)
        means = [select(losses, self.batch.rows[index]).mean() for index in domains]
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
    # Only the mathematical form of attention can be gone back through twice.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), _by(masking, leaves):
        training_loss = loss(lambda inputs: forward(model, inputs), train)
        _refuse_reentrant_checkpoints(training_loss)
        gradients = torch.autograd.grad(
            training_loss, list(named.values()), create_graph=True, allow_unused=True
        )
        moved = {
            name: parameter.detach() - (0.0 if gradient is None else rate * gradient.detach())
            for (name, parameter), gradient in zip(named.items(), gradients, strict=True)
        }
        with masking.suspended():
            tested = _gradients_at(
                model, moved, lambda call: loss(lambda x: forward(call, x), test)
            )
        # By the chain rule: θ' depends on M through −α ∇L_train(θ ⊙ M) alone. A checkpoint runs its
        # part of the model again here, and has to see the same factors.
        pairs = [
            (gradient, -rate * tested[name])
            for name, gradient in zip(named, gradients, strict=True)
            if gradient is not None and gradient.requires_grad and name in tested
        ]
        slopes: Sequence[Tensor | None] = [None] * len(leaves)
        if pairs:
            slopes = torch.autograd.grad(
                [g for g, _ in pairs], leaves, [v for _, v in pairs], allow_unused=True
            )
    return [
        torch.zeros_like(leaf) if slope is None else slope
        for leaf, slope in zip(leaves, slopes, strict=True)
    ]


def _refuse_reentrant_checkpoints(loss: Tensor) -> None:
    nodes, seen = [loss.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if "CheckpointFunction" in node.name():
            raise RuntimeError(
                "a learned ratio goes back twice through the model, which re-entrant checkpoints "
                "do not allow; use checkpoint(..., use_reentrant=False), or a fixed ratio."
            )
        nodes += [following for following, _ in node.next_functions]


def _gradients_at(
    model: nn.Module,
    parameters: Mapping[str, Tensor],
    loss: Callable[[Callable[..., Any]], Tensor],
) -> dict[str, Tensor]:
    """The gradients of a loss at other parameters of the model, by their names.

    The whole is one call of :func:`functional_call`, so that what a checkpoint runs again on the
    way back sees these parameters, too.
    """
    leaves = {name: value.requires_grad_() for name, value in parameters.items()}
    found: dict[str, Tensor] = {}

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self) -> None:
            gradients = torch.autograd.grad(
                loss(self.model), list(leaves.values()), allow_unused=True
            )
            found.update(
                {
                    name: gradient
                    for name, gradient in zip(leaves, gradients, strict=True)
                    if gradient is not None
                }
            )

    functional_call(Both(), {f"model.{name}": leaf for name, leaf in leaves.items()}, ())
    return found


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
    slopes: Tensor,
    kept: Tensor,
    ranking: Ranking,
    ratio: float,
    temperature: float,
    rescale: bool,
) -> Tensor:
    """Σ_j ∂L/∂M_j · ∂M_j/∂p, straight through the hard mask; float64.

    The soft mask is M̃ = σ(((1 − p) − u)/T), so ∂M̃/∂p = −M̃ (1 − M̃)/T. With ``rescale`` the mask
    is M/(1 − p), so its derivative is (∂M̃/∂p)/(1 − p) + M/(1 − p)².

    Args:
        slopes: ∂L/∂M.
        kept: the hard mask M.
        ranking: the components' ranks u.
        ratio: p.
        temperature: T.
        rescale: whether what is kept is divided by 1 − p.
    """
    soft = ((1.0 - ratio - ranking.ranks) / temperature).sigmoid()
    by_ratio = soft * (soft - 1.0) / temperature
    total = (sums_of_bins(ranking.bins, slopes) * by_ratio).sum()
    if rescale:
        total = total / (1.0 - ratio) + (slopes * kept).sum() / (1.0 - ratio) ** 2
    return total
