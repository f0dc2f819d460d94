"""The ways to make a step of agreement: ours, DomainBed's, by a retained graph, by TorchJD."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Literal

import torch
from timing import Way
from torch import Tensor, nn
from torch.nn import functional as F

import domaingrad as dg
from domaingrad.rules import Rule


@dataclass(frozen=True)
class Batch:
    """A model, and samples of several domains, one domain after the other."""

    model: nn.Module
    x: Tensor
    y: Tensor
    domains: int

    @property
    def parts(self) -> list[tuple[Tensor, Tensor]]:
        """The samples of each domain."""
        splits = self.x.tensor_split(self.domains), self.y.tensor_split(self.domains)
        return list(zip(*splits, strict=True))

    @property
    def domain(self) -> Tensor:
        """The domain of each sample."""
        sizes = torch.tensor([len(labels) for _, labels in self.parts])
        return torch.arange(self.domains).repeat_interleave(sizes)

    def clear(self) -> None:
        """Leave no gradient behind."""
        self.model.zero_grad()


def batch(
    model: nn.Module, shape: tuple[int, ...], domains: int, samples: int, classes: int
) -> Batch:
    """Random samples, ``samples`` of all domains together."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, *shape, generator=generator)
    y = torch.randint(classes, (samples,), generator=generator)
    return Batch(model, x, y, domains)


def erm(b: Batch) -> Way:
    """One forward and backward on the mixed batch."""
    return lambda: F.cross_entropy(b.model(b.x), b.y).backward()


def compiled_erm(b: Batch) -> Way:
    """The same through ``torch.compile``."""
    compiled = torch.compile(b.model)
    return lambda: F.cross_entropy(compiled(b.x), b.y).backward()


def single_pass(b: Batch, rule: Rule, compiled: bool = False) -> Way:
    """``agree(x, domain)`` and ``agree.backward(losses)``, in one pass for all domains.

    Without the audits, which fall in the few steps that are measured here: some three steps each,
    ten of them in the first thousand.
    """
    agree = dg.GradientAgreement(b.model, rule, engine="single-pass", audit=False, compile=compiled)
    domain = b.domain
    return lambda: agree.backward(F.cross_entropy(agree(b.x, domain), b.y, reduction="none"))


def streaming(b: Batch, rule: Rule) -> Way:
    """``agree.domain(name)``: a forward and backward per domain, into running statistics."""
    agree = dg.GradientAgreement(b.model, rule, engine="streaming")
    parts = b.parts

    def step() -> None:
        for name, (x, y) in enumerate(parts):
            with agree.domain(name):
                F.cross_entropy(b.model(x), y).backward()
        agree.combine()

    return step


def domainbed(b: Batch) -> Way:
    """DomainBed's AND-mask: a forward and ``autograd.grad`` per domain, all gradients stacked."""
    parameters, parts = list(b.model.parameters()), b.parts

    def step() -> None:
        losses = (F.cross_entropy(b.model(x), y) for x, y in parts)
        _mask(parameters, [torch.autograd.grad(loss, parameters) for loss in losses])

    return step


def retained_graph(b: Batch) -> Way:
    """A joint forward, one backward per domain with the graph kept, all gradients stacked."""
    parameters = list(b.model.parameters())

    def step() -> None:
        losses = _losses_of_domains(b)
        _mask(
            parameters,
            [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses],
        )

    return step


Aggregator = Literal["AND-mask", "PCGrad", "UPGrad"]


def torchjd(b: Batch, aggregator: Aggregator, chunk: int | None = None) -> Way:
    """TorchJD's autojac: joint forward, Jacobian of the domains' losses, aggregation.

    TorchJD has no AND-mask: ours takes the aggregator's place, as a function of a [K, P] matrix.
    ``chunk`` is its ``parallel_chunk_size``: by default all losses go back at once, under vmap.
    """
    parameters = list(b.model.parameters())

    def step() -> None:
        autojac, aggregation = (
            import_module("torchjd.autojac"),
            import_module("torchjd.aggregation"),
        )
        own = aggregator == "AND-mask"
        combine = dg.ANDMask() if own else getattr(aggregation, aggregator)()
        autojac.backward(_losses_of_domains(b), parallel_chunk_size=chunk)
        autojac.jac_to_grad(parameters, combine)

    return step


def and_mask_as_domainbed(gradients: Sequence[Tensor]) -> Tensor:
    """DomainBed's AND-mask with τ = 1, operation by operation."""
    stacked = torch.stack(list(gradients))
    mask = (stacked.sign().mean(0).abs() >= 1.0).to(torch.float32)
    update = mask * stacked.mean(0)
    update *= 1.0 / (1e-10 + mask.sum() / mask.numel())
    return update


def _mask(parameters: Sequence[nn.Parameter], gradients: Sequence[tuple[Tensor, ...]]) -> None:
    for parameter, own in zip(parameters, zip(*gradients, strict=True), strict=True):
        parameter.grad = and_mask_as_domainbed(own)


def _losses_of_domains(b: Batch) -> list[Tensor]:
    losses = F.cross_entropy(b.model(b.x), b.y, reduction="none")
    return [own.mean() for own in losses.tensor_split(b.domains)]
