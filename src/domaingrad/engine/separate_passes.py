"""A mixed batch passed through the model one domain at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import (
    TreeSpec,
    keystr,
    tree_flatten,
    tree_flatten_with_path,
    tree_unflatten,
)

from .batch import Batch, run, select
from .errors import FOREIGN_BACKWARD, AgreementError


class SeparatePasses:
    """Forward passes domain by domain, their outputs put back in the order of the batch.

    The graph is cut at the outputs: the losses reach back to :attr:`_cut`, the outputs in order of
    domain, and from there each domain's graph is walked once.

    Args:
        batch: which samples belong to which domain.
        shares: what each domain's mean loss is multiplied by; ``None`` for ones.
    """

    def __init__(self, batch: Batch, shares: Sequence[float] | None = None) -> None:
        self.batch = batch
        self.shares = shares
        self._walking = False
        self._cut: list[Tensor] = []
        self._outputs: list[tuple[Tensor, ...]] = []

    def forward(self, model: nn.Module, inputs: Any, options: Mapping[str, Any]) -> Any:
        """The model's outputs for the whole batch, from one pass a domain.

        ``inputs`` is a tensor, a tuple of positional or a dict of keyword arguments; every tensor
        in it is split along its first dimension. ``options`` go to every pass as they are.
        """
        outputs = [run(model, select(inputs, rows), options) for rows in self.batch.rows]
        trees = [tree_flatten(output) for output in outputs]
        spec = self._common_spec([spec for _, spec in trees])
        columns = zip(*(leaves for leaves, _ in trees), strict=True)
        joined = [
            self._join(column, partial(_named, outputs[0], place))
            for place, column in enumerate(columns)
        ]
        return tree_unflatten(joined, spec)

    @property
    def has_graph(self) -> bool:
        """Whether anything can be walked backward."""
        return bool(self._cut)

    def backward(self, index: int, losses: Tensor) -> Tensor:
        """Walk back from the mean loss of one domain; say whether other domains were touched.

        The domains go in order; the graph between outputs and losses is kept until the last.
        """
        rows, label = self.batch.rows[index], self.batch.labels[index]
        last = index == len(self.batch.labels) - 1
        loss = select(losses, rows).mean()
        if self.shares is not None:
            loss = loss * self.shares[index]
        self._walking = True
        try:
            torch.autograd.backward(loss, retain_graph=not last)
        finally:
            self._walking = False
        start = sum(len(rows) for rows in self.batch.rows[:index])
        own = slice(start, start + len(rows))
        foreign = losses.new_zeros((), dtype=torch.bool)
        tensors, gradients, reached = [], [], False
        for cut, outputs in zip(self._cut, self._outputs, strict=True):
            gradient, cut.grad = cut.grad, None
            if gradient is None:
                continue
            reached = True
            if outputs[index].requires_grad:
                tensors.append(outputs[index])
                gradients.append(gradient[own].clone())
            gradient[own] = 0
            # NaN is no sign of mixing: 0 · inf in another sample's row makes one.
            foreign |= (gradient.nan_to_num_(0.0, 0.0, 0.0) != 0).any().to(foreign.device)
        if not reached:
            raise AgreementError(
                f"the losses of domain {label} do not depend on the outputs of agree(x, domain); "
                f"compute them from the outputs of the latest call."
            )
        torch.autograd.backward(tensors, gradients)
        return foreign

    def _common_spec(self, specs: list[TreeSpec]) -> TreeSpec:
        for label, spec in zip(self.batch.labels, specs, strict=True):
            if spec != specs[0]:
                raise ValueError(
                    f"the model's output has another structure for domain {label} than for domain "
                    f"{self.batch.labels[0]}: {spec} against {specs[0]}. Use "
                    f"`with agree.domain(name)`."
                )
        return specs[0]

    def _require_own_walk(self, gradient: Tensor) -> None:
        if not self._walking:
            raise AgreementError(FOREIGN_BACKWARD)

    def _join(self, parts: tuple[Any, ...], name: Callable[[], str]) -> Any:
        if not isinstance(parts[0], Tensor):
            return self._common_value(parts, name)
        for rows, part in zip(self.batch.rows, parts, strict=True):
            if part.ndim == 0:
                raise ValueError(
                    f"every output tensor must hold one row per sample; {name()} is a single "
                    f"number, as of a loss that the model takes the mean of. Compute that loss "
                    f"outside, one a sample (a model that computes its own when given labels: "
                    f"leave the labels out), or use `with agree.domain(name)`."
                )
            if len(part) != len(rows):
                raise ValueError(
                    f"every output tensor must hold one row per sample; for {len(rows)} samples "
                    f"{name()} has shape {list(part.shape)}. Use `with agree.domain(name)` for "
                    f"models that reduce or reorder the batch."
                )
            if part.shape[1:] != parts[0].shape[1:]:
                raise ValueError(
                    f"{name()} of two domains does not fit together: shapes "
                    f"{list(parts[0].shape)} and {list(part.shape)} differ beyond the first "
                    f"dimension. Pad to one length, or use `with agree.domain(name)`."
                )
        joined = torch.cat([part.detach() for part in parts])
        order = self.batch.back.to(joined.device)
        if not any(part.requires_grad for part in parts):
            return joined[order]
        joined.requires_grad_().register_hook(self._require_own_walk)  # type: ignore[no-untyped-call]
        self._cut.append(joined)
        self._outputs.append(parts)
        return joined[order]

    def _common_value(self, parts: tuple[Any, ...], name: Callable[[], str]) -> Any:
        plain = parts[0] is None or isinstance(parts[0], (bool, int, float, str))
        if plain and all(part == parts[0] for part in parts):
            return parts[0]
        kind = type(parts[0]).__name__
        found = f"{kind}: {parts[0]!r}" if plain else f"a {kind}"
        if kind.endswith("Cache"):
            remedy = "Leave the cache out, by use_cache=False: agree(x, domain, use_cache=False)"
        elif is_dataclass(parts[0]):
            remedy = "Return its tensors as a tuple or a dict, such as vars(output)"
        else:
            remedy = "Return tensors with one row per sample"
        raise TypeError(
            f"beside tensors, a model may return None and numbers or words that are the same for "
            f"every domain; {name()} is {found} for domain {self.batch.labels[0]}. {remedy}, or "
            f"use `with agree.domain(name)`."
        )


def _named(output: Any, place: int) -> str:
    """How a message speaks of a leaf of the model's output."""
    path = keystr(tree_flatten_with_path(output)[0][place][0])
    return f"the output {path}" if path else "the output"
