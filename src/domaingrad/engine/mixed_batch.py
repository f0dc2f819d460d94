"""A batch that holds several domains, passed through the model one domain at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map_only, tree_unflatten

from .errors import AgreementError


class MixedBatch:
    """Forward passes domain by domain, their outputs put back in the order of the batch.

    The graph is cut at the outputs: the losses reach back to :attr:`_cut`, the outputs in order of
    domain, and from there each domain's graph is walked once.

    Args:
        domain: integer tensor of shape [N], the domain of each sample.

    Raises:
        TypeError, ValueError: ``domain`` is not a non-empty integer tensor of one dimension.
    """

    def __init__(self, domain: Tensor) -> None:
        if not isinstance(domain, Tensor) or domain.is_floating_point() or domain.is_complex():
            raise TypeError(
                f"domain must be an integer tensor of shape [N], the domain of each sample; found "
                f"{_described(domain)}."
            )
        if domain.dtype == torch.bool or domain.ndim != 1 or len(domain) == 0:
            raise ValueError(
                f"domain must be an integer tensor of shape [N] with N ≥ 1, the domain of each "
                f"sample; found {_described(domain)}."
            )
        self.size = len(domain)
        self.labels: list[int] = torch.unique(domain).tolist()
        self.rows = [(domain == label).nonzero().squeeze(1) for label in self.labels]
        order = torch.cat(self.rows)
        self._order_of_batch = order.argsort()
        self._walking = False
        self._cut: list[Tensor] = []
        self._outputs: list[tuple[Tensor, ...]] = []

    def forward(self, model: nn.Module, inputs: Any, options: Mapping[str, Any]) -> Any:
        """The model's outputs for the whole batch, from one pass a domain.

        ``inputs`` is a tensor, a tuple of positional or a dict of keyword arguments; every tensor
        in it is split along its first dimension. ``options`` go to every pass as they are.
        """
        tree_map_only(Tensor, self._check_input, inputs)
        tree_map_only(Tensor, _refuse_graph, (inputs, dict(options)))
        if not any(isinstance(leaf, Tensor) for leaf in tree_flatten(inputs)[0]):
            raise TypeError(
                f"the inputs hold no tensor that could be split by domain; found a "
                f"{type(inputs).__name__}. Pass a tensor, a tuple or a dict of tensors, or use "
                f"`with agree.domain(name)`."
            )
        trees = [tree_flatten(_call(model, part, options)) for part in self._split(inputs)]
        spec = self._common_spec([spec for _, spec in trees])
        columns = zip(*(leaves for leaves, _ in trees), strict=True)
        return tree_unflatten([self._join(column) for column in columns], spec)

    @property
    def has_graph(self) -> bool:
        """Whether anything can be walked backward."""
        return bool(self._cut)

    def backward(self, index: int, losses: Tensor) -> Tensor:
        """Walk back from the mean loss of one domain; say whether other domains were touched.

        The domains go in order; the graph between outputs and losses is kept until the last.
        """
        rows, label = self.rows[index], self.labels[index]
        last = index == len(self.labels) - 1
        loss = losses[rows.to(losses.device)].mean()
        self._walking = True
        try:
            torch.autograd.backward(loss, retain_graph=not last)
        finally:
            self._walking = False
        start = sum(len(rows) for rows in self.rows[:index])
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

    def _check_input(self, tensor: Tensor) -> Tensor:
        if tensor.ndim == 0 or len(tensor) != self.size:
            raise ValueError(
                f"every tensor of the inputs must hold one row per sample, {self.size} as domain "
                f"does; found shape {list(tensor.shape)}. Pass what all samples share as a keyword "
                f"argument, or use `with agree.domain(name)`."
            )
        return tensor

    def _split(self, inputs: Any) -> Iterator[Any]:
        for rows in self.rows:
            yield tree_map_only(Tensor, partial(_select, rows), inputs)

    def _common_spec(self, specs: list[TreeSpec]) -> TreeSpec:
        for label, spec in zip(self.labels, specs, strict=True):
            if spec != specs[0]:
                raise ValueError(
                    f"the model's output has another structure for domain {label} than for domain "
                    f"{self.labels[0]}: {spec} against {specs[0]}. Use `with agree.domain(name)`."
                )
        return specs[0]

    def _require_own_walk(self, gradient: Tensor) -> None:
        if not self._walking:
            raise AgreementError(
                "a backward that is not agree.backward(losses) of the same call reached outputs of "
                "agree(x, domain), so the model would learn nothing from it. Call "
                "agree.backward(losses) in place of loss.backward(), and pass all inputs of a step "
                "in one call of agree(x, domain)."
            )

    def _join(self, parts: tuple[Any, ...]) -> Any:
        if not isinstance(parts[0], Tensor):
            return self._common_value(parts)
        for rows, part in zip(self.rows, parts, strict=True):
            if part.ndim == 0 or len(part) != len(rows):
                raise ValueError(
                    f"every output tensor must hold one row per sample; for {len(rows)} samples "
                    f"the model gave shape {list(part.shape)}. Use `with agree.domain(name)` for "
                    f"models that reduce or reorder the batch."
                )
            if part.shape[1:] != parts[0].shape[1:]:
                raise ValueError(
                    f"the model's outputs for two domains do not fit together: shapes "
                    f"{list(parts[0].shape)} and {list(part.shape)} differ beyond the first "
                    f"dimension. Pad to one length, or use `with agree.domain(name)`."
                )
        joined = torch.cat([part.detach() for part in parts])
        order = self._order_of_batch.to(joined.device)
        if not any(part.requires_grad for part in parts):
            return joined[order]
        joined.requires_grad_().register_hook(self._require_own_walk)  # type: ignore[no-untyped-call]
        self._cut.append(joined)
        self._outputs.append(parts)
        return joined[order]

    def _common_value(self, parts: tuple[Any, ...]) -> Any:
        plain = parts[0] is None or isinstance(parts[0], (bool, int, float, str))
        if plain and all(part == parts[0] for part in parts):
            return parts[0]
        raise TypeError(
            f"beside tensors, a model may return None and numbers or words that are the same for "
            f"every domain; found {type(parts[0]).__name__}: {parts[0]!r} for domain "
            f"{self.labels[0]}. Return tensors with one row per sample, or use "
            f"`with agree.domain(name)`."
        )


def _refuse_graph(tensor: Tensor) -> Tensor:
    if tensor.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            "the inputs of agree(x, domain) require grad, but its graph ends at the model's "
            "inputs. Wrap a model that holds everything to be trained, detach the inputs, or use "
            "`with agree.domain(name)`."
        )
    return tensor


def _call(model: nn.Module, inputs: Any, options: Mapping[str, Any]) -> Any:
    if isinstance(inputs, tuple):
        return model(*inputs, **options)
    if isinstance(inputs, dict):
        return model(**inputs, **options)
    return model(inputs, **options)


def _select(rows: Tensor, tensor: Tensor) -> Tensor:
    return tensor[rows.to(tensor.device)]


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"shape {list(value.shape)} of {value.dtype}"
    return f"a {type(value).__name__}"
