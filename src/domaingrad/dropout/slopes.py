"""How a loss after a virtual step depends on what that step kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map_only

from domaingrad.engine.batch import Batch, run, select
from domaingrad.engine.visiting import check_losses
from domaingrad.rules.transfer import to_device

from .layers import Target
from .masking import Masking
from .processes import ALONE, Processes

TEST_SHARE = 1 / 3
"""Share of the source domains that the virtual step is tested on: one of two to four."""

Domains = Sequence[int]
"""Labels of some domains."""


def split_domains(count: int, generator: Generator) -> tuple[list[int], list[int]]:
    """Meta-train and meta-test domains, drawn at random: two and one of three, say."""
    order = torch.randperm(count, generator=generator, device=generator.device).tolist()
    test = max(1, round(count * TEST_SHARE))
    return sorted(order[test:]), sorted(order[:test])


@dataclass(frozen=True)
class SubsetLoss:
    """The mean over some domains of their mean losses, on those samples alone.

    Args:
        inputs: of all N samples, as the model takes them.
        loss_fn: from outputs for all N samples to one loss each.
        batch: which sample belongs to which domain.
        shares: of each domain's samples, by its label, how many this process has; without, all.
        options: passed to the model as they are.
    """

    inputs: Any
    loss_fn: Callable[[Any], Tensor]
    batch: Batch
    shares: Mapping[int, float] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, model: Callable[..., Any], domains: Domains) -> Tensor | None:
        """This process's part of the loss; ``None`` if it has no sample of these domains."""
        here = [index for index, label in enumerate(self.batch.labels) if label in domains]
        if not here:
            return None
        rows = torch.cat([self.batch.rows[index] for index in here])

        def spread(tensor: Tensor) -> Tensor:
            """Outputs for all N samples, of which those of other domains are never looked at."""
            if tensor.ndim == 0 or len(tensor) != len(rows):
                return tensor
            whole = tensor.detach()[:1].expand(self.batch.size, *tensor.shape[1:])
            return whole.index_copy(0, to_device(rows, tensor.device), tensor)

        outputs = run(model, select(self.inputs, rows), self.options)
        losses = self.loss_fn(tree_map_only(Tensor, spread, outputs))
        check_losses(losses, self.batch.size)
        means = torch.stack([select(losses, self.batch.rows[index]).mean() for index in here])
        shares = [self.shares.get(self.batch.labels[index], 1.0) for index in here]
        if len(here) == len(domains) and set(shares) == {1.0}:
            return means.mean()
        on_device = to_device(torch.tensor(shares, dtype=means.dtype), means.device)
        return (means * on_device).sum() / len(domains)


@dataclass(frozen=True)
class VirtualStep:
    """A step on some domains, and the loss of others after it.

    Args:
        model: the model.
        masking: of its weights; without any where gradients are masked instead.
        targets: what is masked.
        loss: of some domains' samples.
        rate: α.
        scale: what the loss is multiplied by, as GradScaler does.
        processes: who takes part.
    """

    model: nn.Module
    masking: Masking
    targets: Sequence[Target]
    loss: SubsetLoss
    rate: float
    scale: Tensor | None = None
    processes: Processes = ALONE

    def through_the_graph(
        self, factors: Sequence[Tensor], train: Domains, test: Domains
    ) -> list[Tensor]:
        """∂L_test(θ')/∂M, with θ' = θ − α ∇L_train(θ ⊙ M) and L_test at the unmasked θ'.

        This process's part: the sum over all of them is the slope.

        Args:
            factors: M, each of its weight's shape.
            train: domains of the virtual step.
            test: domains that it is tested on.
        """
        named = self._named()
        leaves = [factor.detach().requires_grad_() for factor in factors]
        # Only the mathematical form of attention can be gone back through twice.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), self._by(leaves):
            training = self._scaled(self.loss(self.model, train))
            gradients: Sequence[Tensor | None] = [None] * len(named)
            if training is not None:
                _refuse_reentrant_checkpoints(training)
                gradients = torch.autograd.grad(
                    training, list(named.values()), create_graph=True, allow_unused=True
                )
            tested = self._tested(named, self._total(gradients, list(named.values())), test)
            # By the chain rule: θ' depends on M through −α ∇L_train(θ ⊙ M) alone. A checkpoint runs
            # its part of the model again here, and has to see the same factors.
            pairs = [
                (gradient, -self.rate * slope)
                for gradient, slope in zip(gradients, tested, strict=True)
                if gradient is not None and gradient.requires_grad
            ]
            slopes: Sequence[Tensor | None] = [None] * len(leaves)
            if pairs:
                slopes = torch.autograd.grad(
                    [g for g, _ in pairs], leaves, [v for _, v in pairs], allow_unused=True
                )
        return [
            torch.zeros_like(leaf) if slope is None else self._unscaled(slope)
            for leaf, slope in zip(leaves, slopes, strict=True)
        ]

    def of_gradients(
        self, factors: Sequence[Tensor], train: Domains, test: Domains
    ) -> list[Tensor]:
        """∂L_test(θ')/∂M for masked gradients: θ' = θ − α M ⊙ ∇L_train(θ), so −α ∇L_train ∇L_test.

        All of it, not this process's part alone, divided by the number of processes.
        """
        named = self._named()
        values = list(named.values())
        with torch.enable_grad():
            found = self._gradients_at({name: p.detach() for name, p in named.items()}, train)
        total = self._total(found, values)
        places = {id(parameter): place for place, parameter in enumerate(values)}
        own = [places[id(target.parameter)] for target in self.targets]
        step = list(total)
        for place, factor in zip(own, factors, strict=True):
            step[place] = factor * total[place]
        tested = self._tested(named, step, test)
        share = -self.rate / self.processes.count
        return [share * total[place] * tested[place] for place in own]

    def _named(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def _scaled(self, loss: Tensor | None) -> Tensor | None:
        return loss if loss is None or self.scale is None else loss * self.scale.to(loss)

    def _unscaled(self, gradient: Tensor) -> Tensor:
        return gradient if self.scale is None else gradient / self.scale.to(gradient)

    def _total(self, gradients: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
        """Over all processes, without the loss scale; zero where there is none."""
        own = [
            torch.zeros_like(parameter) if gradient is None else self._unscaled(gradient.detach())
            for gradient, parameter in zip(gradients, like, strict=True)
        ]
        return self.processes.sums(own)

    def _tested(
        self, named: Mapping[str, nn.Parameter], step: Sequence[Tensor], test: Domains
    ) -> list[Tensor]:
        """The gradient of the test loss after a step, at whole weights, over all processes."""
        moved = {
            name: parameter.detach() - self.rate * gradient
            for (name, parameter), gradient in zip(named.items(), step, strict=True)
        }
        with torch.enable_grad(), self.masking.suspended():
            found = self._gradients_at(moved, test)
        return self._total(found, list(moved.values()))

    def _gradients_at(
        self, parameters: Mapping[str, Tensor], domains: Domains
    ) -> Sequence[Tensor | None]:
        """The gradients of a loss at other parameters.

        The whole is one call of :func:`functional_call`, so that what a checkpoint runs again on
        the way back sees these parameters, too.
        """
        leaves = {name: value.requires_grad_() for name, value in parameters.items()}
        step = self

        class Both(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = step.model

            def forward(self) -> None:
                loss = step._scaled(step.loss(self.model, domains))
                if loss is not None:
                    loss.backward()  # type: ignore[no-untyped-call]

        functional_call(Both(), {f"model.{name}": leaf for name, leaf in leaves.items()}, ())
        return [leaf.grad for leaf in leaves.values()]

    @contextmanager
    def _by(self, factors: Sequence[Tensor]) -> Iterator[None]:
        """Let the masks multiply by these factors."""
        for mask, factor in zip(self.masking.masks, factors, strict=True):
            mask.factors = factor
        try:
            yield
        finally:
            for mask in self.masking.masks:
                mask.factors = None


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
                "do not allow; use checkpoint(..., use_reentrant=False), mask='gradients', or a "
                "fixed ratio."
            )
        nodes += [following for following, _ in node.next_functions]
