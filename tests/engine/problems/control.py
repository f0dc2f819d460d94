"""Graphs cut, recomputed, branched or chosen while the model runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .problem import CLASSES, Apply, cross_entropy, mlp, normal, problem, weights


class Checkpointed(nn.Module):
    """Dropout inside, so that recomputing has to restore the random state."""

    def __init__(self, use_reentrant: bool) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.middle = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.3), nn.Tanh())
        self.head = nn.Linear(8, CLASSES)
        self.use_reentrant = use_reentrant

    def forward(self, x: Tensor) -> Tensor:
        hidden = checkpoint(self.middle, self.first(x), use_reentrant=self.use_reentrant)
        return self.head(hidden)


class CheckpointedBlocks(nn.Module):
    """Recomputing moves the running statistics a second time, as it does in a plain step."""

    def __init__(self, norm: nn.Module, *, use_reentrant: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, bias=False), norm, nn.Tanh())
        self.head = nn.Linear(4, CLASSES)
        self.use_reentrant = use_reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = checkpoint(self.block, self.first(x).tanh(), use_reentrant=self.use_reentrant)
        return self.head(x.square().mean((2, 3)))


class SoftExperts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(6, 3)
        self.experts = nn.ModuleList([nn.Linear(6, CLASSES) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        outputs = torch.stack([expert(x) for expert in self.experts], 1)
        return (self.gate(x).softmax(1)[:, :, None] * outputs).sum(1)


class HardExperts(nn.Module):
    """Each sample goes to one expert, which sees a part of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(6, 5) for _ in range(2)])
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = x.new_zeros(len(x), 5)
        for choice, expert in enumerate(self.experts):
            rows = (x[:, 0] > 0) == bool(choice)
            hidden[rows] = expert(x[rows])
        return self.head(torch.tanh(hidden))


class WeightsPerSample(nn.Module):
    """Each sample makes the weights that it passes."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.head = nn.Linear(6, 5 * 6), nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        made = self.make(x).tanh().view(-1, 5, 6)
        return self.head(torch.bmm(made, x[:, :, None]).squeeze(2))


class EarlyExit(nn.Module):
    """In training, the deeper layers are used; in evaluation they are not."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 6) for _ in range(4)])
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for depth, layer in enumerate(self.layers):
            if depth == 3 or (depth == 1 and not self.training):
                break
            x = x + torch.tanh(layer(x))
        return self.head(x)


class Softer(torch.autograd.Function):
    """tanh(p·x) with a gradient of our own for the parameter p, summed over the samples."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: Tensor) -> Tensor:
        y = torch.tanh(p * x)
        ctx.save_for_backward(x, p, y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, p, y = ctx.saved_tensors
        slope = gradient * (1 - y.square())
        return slope * p, (slope * x).sum(0)


class OwnFunction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.p, self.head = nn.Linear(6, 5), weights(5), nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(Softer.apply(self.body(x), self.p))


class WithoutGradient(nn.Module):
    """A teacher under no_grad, a parameter that is only read, and one that is read and learned."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.teacher = mlp(), mlp()
        self.read, self.both = weights(CLASSES), weights(CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            taught = self.teacher(x) * self.both
        logits = self.student(x) * self.read.detach() + self.both * self.both.detach()
        return logits - taught


class Carry(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.keep, self.change = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, state: tuple[Tensor, dict[str, Tensor]]) -> tuple[Tensor, dict[str, Tensor]]:
        x, more = state
        return self.change(x).tanh(), {"sum": more["sum"] + self.keep(x).sigmoid()}


class TuplesBetweenModules(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(Carry(), Carry(), Carry())
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x, more = self.layers((x, {"sum": torch.zeros_like(x)}))
        return self.head(x * more["sum"])


class Siamese(nn.Module):
    """One encoder for both inputs, called twice, or once with both of them as one batch."""

    def __init__(self, *, together: bool) -> None:
        super().__init__()
        self.encoder, self.head = mlp(), nn.Linear(CLASSES, CLASSES)
        self.together = together

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        if self.together:
            left, right = self.encoder(torch.cat([left, right])).chunk(2)
        else:
            left, right = self.encoder(left), self.encoder(right)
        return self.head(left * right)


class UnusedInside(nn.Module):
    """An auxiliary head whose output goes nowhere, and half of a layer's output."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.auxiliary = nn.Linear(6, 8), nn.Linear(8, 2)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        used, _ = (hidden := self.body(x)).chunk(2, dim=1)
        self.auxiliary(hidden)
        return self.head(torch.tanh(used))


class SinglePrecisionInside(nn.Module):
    """A branch in float32 that rounds each number by itself, with no parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 5), nn.Linear(11, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        coarse = (x.float() / 3).to(x.dtype)
        return self.head(torch.cat([torch.tanh(self.body(x)), coarse], 1))


class Unrolled(nn.Module):
    """Steps of gradient descent inside the model, on each sample by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.dictionary, self.rate = weights(6, 4), nn.Parameter(torch.tensor(0.2))
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        code = x.new_zeros(len(x), 4)
        for _ in range(3):
            code = code - self.rate * (code @ self.dictionary.T - x) @ self.dictionary
        return self.head(code)


class Norms(nn.Module):
    """A penalty on weights as an output: it depends on no sample, but each sample has it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.body(x), self.body[0].weight.square().sum().expand(len(x))


VECTOR = normal(6)
IMAGE = normal(2, 7, 7)

PROBLEMS = {
    "checkpoint": problem(lambda: Checkpointed(use_reentrant=False), VECTOR),
    "re-entrant checkpoint": problem(lambda: Checkpointed(use_reentrant=True), VECTOR),
    "checkpointed convolutions": problem(
        lambda: CheckpointedBlocks(nn.GroupNorm(2, 4), use_reentrant=False), IMAGE
    ),
    "checkpointed batch norm": problem(
        lambda: CheckpointedBlocks(nn.BatchNorm2d(4), use_reentrant=False), IMAGE
    ),
    "re-entrant checkpointed batch norm": problem(
        lambda: CheckpointedBlocks(nn.BatchNorm2d(4), use_reentrant=True), IMAGE
    ),
    "soft mixture of experts": problem(SoftExperts, VECTOR),
    "hard mixture of experts": problem(HardExperts, VECTOR),
    "weights per sample": problem(WeightsPerSample, VECTOR),
    "early exit": problem(EarlyExit, VECTOR),
    "a function with its own gradient": problem(OwnFunction, VECTOR),
    "parts without gradient": problem(WithoutGradient, VECTOR),
    "tuples between modules": problem(TuplesBetweenModules, VECTOR),
    "one encoder for two inputs": problem(
        lambda: Siamese(together=False), (VECTOR, normal(6, seed=1))
    ),
    "two inputs as one batch": problem(lambda: Siamese(together=True), (VECTOR, normal(6, seed=1))),
    "unused inside": problem(UnusedInside, VECTOR),
    "single precision inside": problem(SinglePrecisionInside, VECTOR),
    "unrolled optimisation": problem(Unrolled, VECTOR),
    "a penalty as an output": problem(
        Norms,
        VECTOR,
        lambda outputs, targets: cross_entropy(outputs[0], targets) + 0.1 * outputs[1],
    ),
    "samples in a list": problem(
        lambda: nn.Sequential(
            Apply(lambda x: torch.stack([row.flip(0) for row in x])), nn.Linear(6, CLASSES)
        ),
        VECTOR,
    ),
}
