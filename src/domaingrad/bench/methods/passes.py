"""Forward passes, domains' gradients and penalties: what several methods are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

import torch
from torch import Generator, Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from domaingrad.bench.models import Network
from domaingrad.rules.statistics import accumulation_dtype

from .learner import Batches, H_co, Learner, Setup, in_one_piece, mean_over_processes


@dataclass(frozen=True)
class Members:
    """Of which domain samples are: so many of each, one domain after the other.

    Where runs train together (:mod:`domaingrad.bench.runs.stacked`), their batches are padded to
    one size with samples that count for nothing.
    """

    sizes: tuple[int, ...]
    """Samples of each domain, padding included."""
    counted: Tensor | None = None
    """[N], 1 for a sample and 0 for padding; ``None`` where there is none."""

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        """Rows of samples, domain by domain."""
        parts: tuple[Tensor, ...] = values.split(list(self.sizes))  # type: ignore[no-untyped-call]
        return parts

    def counts(self, like: Tensor) -> Tensor:
        """Samples of each domain, [K]."""
        if self.counted is None:
            return torch.stack([torch.full_like(like[0], size) for size in self.sizes])
        return torch.stack([each.sum() for each in self.split(self.counted)])

    def sums(self, values: Tensor) -> Tensor:
        """Of one number a sample over each domain, [K]."""
        counted = values if self.counted is None else values * self.counted
        return torch.stack([each.sum() for each in self.split(counted)])

    def mean(self, values: Tensor) -> Tensor:
        """Of one number a sample over all samples."""
        if self.counted is None:
            return values.mean()
        return (values * self.counted).sum() / self.counted.sum()

    def means(self, values: Tensor) -> Tensor:
        """Of one number a sample over each domain, [K]."""
        if self.counted is None:
            return torch.stack([each.mean() for each in self.split(values)])
        return self.sums(values) / self.counts(values)

    def every_second(self, begin: int, values: Tensor) -> Tensor:
        """Of one number a sample, the mean over every second sample of each domain, [K]."""
        parts = [each[begin::2] for each in self.split(values)]
        if self.counted is None:
            return torch.stack([each.mean() for each in parts])
        counted = [each[begin::2] for each in self.split(self.counted)]
        return torch.stack([(v * c).sum() / c.sum() for v, c in zip(parts, counted, strict=True)])

    def shares(self, like: Tensor, lost: int = 0) -> Tensor:
        """Means over domains as a matrix, [K, N]: 1/(n_e − lost) where a sample is of domain e."""
        rows = torch.eye(len(self.sizes), dtype=like.dtype, device=like.device)
        if self.counted is not None:
            parts = zip(rows, self.split(self.counted), strict=True)
            return torch.cat([row[:, None] * (c / (c.sum() - lost)) for row, c in parts], 1)
        columns = (row[:, None] / max(n - lost, 1) for row, n in zip(rows, self.sizes, strict=True))
        return torch.cat([c.expand(-1, n) for c, n in zip(columns, self.sizes, strict=True)], 1)


@dataclass(frozen=True)
class Forward:
    """All domains' samples through the network together, domain after domain.

    In float32 at least. Ours: DomainBed's code of some methods passes each domain by itself; the
    two differ only where BatchNorm's statistics are live.
    """

    features: Tensor
    """[N, width]."""
    outputs: Tensor
    """[N, outputs]."""
    labels: Tensor
    """[N]."""
    losses: Tensor
    """[N]."""
    members: Members

    @property
    def sizes(self) -> tuple[int, ...]:
        """Samples of each domain."""
        return self.members.sizes

    def by_domain(self, values: Tensor) -> tuple[Tensor, ...]:
        """Rows of samples, domain by domain."""
        return self.members.split(values)

    @property
    def risks(self) -> Tensor:
        """R_e, the mean loss of each domain, shape [K]."""
        return self.members.means(self.losses)

    @property
    def risk(self) -> Tensor:
        """R̄, to the bit what ERM minimises: the mean over samples, as domains have equally many.

        Of several processes each has the mean over its own samples, and these are averaged.
        """
        return self.members.mean(self.losses)


def forward(setup: Setup, batches: Batches) -> Forward:
    """One forward pass of a step."""
    inputs, labels = in_one_piece(batches)
    features = setup.network.features(inputs)
    outputs = setup.network.head(features)
    losses = setup.loss(outputs, labels)
    members = Members(tuple(len(y) for _, y in batches.values()), setup.counted)
    return Forward(full(features), full(outputs), labels, losses, members)


def full(values: Tensor) -> Tensor:
    """In float32 at least."""
    return values.to(accumulation_dtype(values.dtype))


def errors(setup: Setup, outputs: Tensor, labels: Tensor) -> Tensor:
    """∂ loss/∂ outputs of each sample, [n, outputs], with its graph: p − 1_y for cross-entropy."""
    slope: Callable[[Tensor], Tensor] = torch.func.grad(lambda o: setup.loss(o, labels).sum())
    return slope(outputs)


def spread(inner: Tensor) -> Tensor:
    """The mean over pairs of domains of ‖a_i − a_j‖², from the inner products ⟨a_i, a_j⟩ [K, K].

    (2/(K−1)) (Σ_i ⟨a_i, a_i⟩ − (1/K) Σ_ij ⟨a_i, a_j⟩), and 0 where K = 1.
    """
    count = len(inner)
    return 2 / max(count - 1, 1) * (inner.diagonal().sum() - inner.sum() / count)


class Weighs(Protocol):
    """A method with a weight."""

    @property
    def weight(self) -> float:
        """Of its penalty."""


class Anneals(Weighs, Protocol):
    """One whose weight comes late."""

    @property
    def anneal(self) -> int:
        """The update from which it has its weight."""


W_co = TypeVar("W_co", bound=Weighs, covariant=True)
A_co = TypeVar("A_co", bound=Anneals, covariant=True)


class RiskLearner(Learner[H_co]):
    """What ERM minimises; for methods that are something else in how they step."""

    def objective(self, batches: Batches) -> Tensor:
        """The mean of the risks."""
        return self.total(risk=forward(self.setup, batches).risk)


class PenaltyLearner(Learner[W_co]):
    """The mean of the risks + weight · :meth:`penalty`, from one forward pass."""

    def penalty(self, done: Forward) -> Tensor:
        """What is to be small, a scalar."""
        raise NotImplementedError

    def weight(self) -> float:
        """Of the penalty in this update."""
        return self.hp.weight

    def objective(self, batches: Batches) -> Tensor:
        """Risk and penalty."""
        done = forward(self.setup, batches)
        penalty = self.penalty(done)
        if len(done.sizes) > 1 and done.risk.requires_grad and not penalty.requires_grad:
            name = type(self).__name__.removesuffix("Learner")
            raise ValueError(
                f"the penalty of {name} is of features that nothing trained moves, so it would do "
                f"nothing: the head is linear. Use the head mlp, or erm."
            )
        return self.total(risk=done.risk, penalty=self.weight() * penalty)


class Anneal(Learner[A_co]):
    """From update ``anneal`` on what is added has its weight; Adam begins anew there."""

    early: ClassVar[float] = 0.0
    """Weight before."""

    def weight(self) -> float:
        """The method's, or the early one."""
        return self.hp.weight if self.step >= self.hp.anneal else self.early

    def coming(self) -> None:
        """Forget Adam's moments at the anneal."""
        if self.step == self.hp.anneal:
            self.restart(self.optimizer)


class AnnealedLearner(Anneal[A_co], PenaltyLearner[A_co]):
    """A penalty that is annealed."""


class RiskWeightsLearner(Learner[H_co]):
    """Weights on the domains' gradients: (1/K) Σ_e m_e g_e in one backward pass.

    The m_e come from the risks of all processes, and have no gradient: they are the penalty's.
    """

    def multipliers(self, risks: Tensor) -> Tensor:
        """m_e, shape [K], from R_e; all 1 for ERM."""
        raise NotImplementedError

    def objective(self, batches: Batches) -> Tensor:
        """(1/K) Σ_e m_e R_e, whose gradient is the method's."""
        done = forward(self.setup, batches)
        losses = done.losses.detach()
        found = torch.cat([done.members.sums(losses), done.members.counts(losses)])
        found = found / done.members.counts(losses).sum()
        means = mean_over_processes(self.setup.processes, found, len(losses))
        summed, shares = means.chunk(2)
        weights = self.multipliers(summed / shares) / (len(shares) * shares)
        of_sample = torch.cat([w.expand(n) for w, n in zip(weights, done.sizes, strict=True)])
        self.terms.add({"risk": (summed / shares).mean()})
        return done.members.mean(of_sample * done.losses)


def domain_gradients(
    setup: Setup, network: Network, batches: Batches
) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Mean loss and gradient of each domain in turn, by a pass of its own over its samples.

    As scaled by ``setup.amp``; zero for parameters that are not used. Together they cost a step.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    for x, y in batches.values():
        risk = setup.loss(network(x), y).mean()
        found = torch.autograd.grad(setup.amp.scale(risk), parameters, materialize_grads=True)
        yield risk.detach(), list(found)


def leave(network: nn.Module, gradients: list[Tensor]) -> None:
    """Put gradients into ``.grad`` of the parameters that are trained."""
    trained = (p for p in network.parameters() if p.requires_grad)
    for parameter, gradient in zip(trained, gradients, strict=True):
        parameter.grad = gradient


@torch.no_grad()
def interpolate(module: nn.Module, other: nn.Module, share: float) -> None:
    """Module ← module + share · (other − module), buffers too; whole numbers are copied."""
    for own, its in zip(module.state_dict().values(), other.state_dict().values(), strict=True):
        if own.is_floating_point():
            own.lerp_(its, share)
        else:
            own.copy_(its)


@contextmanager
def steady_statistics(network: nn.Module) -> Iterator[None]:
    """A forward pass inside moves no running statistics of BatchNorm."""
    norms = (m for m in network.modules() if isinstance(m, _BatchNorm))
    buffers = [buffer for norm in norms for buffer in norm.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, old in zip(buffers, before, strict=True):
            buffer.copy_(old)


def perceptron(
    inputs: int, outputs: int, width: int, depth: int, dropout: float = 0.0
) -> nn.Sequential:
    """DomainBed's MLP: ``depth`` linear layers, dropout and ReLU between them."""
    layers: list[nn.Module] = []
    for place in range(depth - 1):
        layers += [nn.Linear(width if place else inputs, width), nn.Dropout(dropout), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def on_device(generator: Generator, device: torch.device) -> Generator:
    """A generator there, for draws of the model's size; its seed comes from ``generator``."""
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    return torch.Generator(device).manual_seed(seed)
