"""Plain models, and what a training script does to them."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .problem import (
    CLASSES,
    DOMAIN,
    LABELS,
    TARGETS,
    cross_entropy,
    mlp,
    normal,
    problem,
    tokens,
)


def frozen() -> nn.Module:
    model = mlp()
    model[0].weight.requires_grad_(False)
    model[2].bias.requires_grad_(False)
    return model


class Expert(nn.Module):
    """A layer that only flagged samples pass; a batch without one does not use it at all."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = mlp()
        self.expert = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor, flagged: Tensor) -> Tensor:
        logits = self.trunk(x)
        return logits + self.expert(x) * flagged[:, None] if flagged.any() else logits


class Spare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()
        self.spare = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Nested(nn.Module):
    """Module containers, a bare parameter, and one layer used three times."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"step": nn.Linear(6, 6), "head": nn.Linear(6, CLASSES)})
        self.norms = nn.ModuleList([nn.LayerNorm(6) for _ in range(3)])
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        for norm in self.norms:
            x = torch.tanh(self.parts["step"](norm(x))) * self.gain
        return self.parts["head"](x)


class Outputs(nn.Module):
    """Logits and features in a structure."""

    def __init__(self, structure: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.features, self.head = nn.Linear(6, 8), nn.Linear(8, CLASSES)
        self.structure = structure

    def forward(self, x: Tensor) -> Any:
        features = torch.tanh(self.features(x))
        return self.structure(self.head(features), features)


Named = namedtuple("Named", ["logits", "features"])


def with_features(logits: Tensor, features: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(logits, targets) + features.square().mean(1)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, CLASSES), nn.Linear(4, CLASSES)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.left(left) * torch.sigmoid(self.right(right))


class Scaled(nn.Module):
    """Keyword options, one of them a tensor that all samples share."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, x: Tensor, *, scale: Tensor, negate: bool = False) -> Tensor:
        logits = self.body(x) * scale
        return -logits if negate else logits


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 5, padding_idx=0)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embedding(tokens).tanh().mean(1))


class Loss(nn.Module):
    """The model returns the losses themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, x: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(self.body(x), targets)


VECTOR = normal(6)

PROBLEMS = {
    "mlp": problem(mlp, VECTOR),
    "frozen parameters": problem(frozen, VECTOR),
    "unused by some domains": problem(Expert, (VECTOR, (LABELS[0] == DOMAIN).double())),
    "unused by all": problem(Spare, VECTOR),
    "dropout": problem(
        lambda: nn.Sequential(nn.Linear(6, 20), nn.Dropout(0.5), nn.Linear(20, CLASSES)), VECTOR
    ),
    "nested modules": problem(Nested, VECTOR),
    "tuple output": problem(
        lambda: Outputs(lambda logits, features: (logits, features)),
        VECTOR,
        lambda outputs, targets: with_features(*outputs, targets),
    ),
    "nested output": problem(
        lambda: Outputs(
            lambda logits, features: {"logits": logits, "more": [features, None, "name"]}
        ),
        VECTOR,
        lambda outputs, targets: with_features(outputs["logits"], outputs["more"][0], targets),
    ),
    "named tuple output": problem(
        lambda: Outputs(Named),
        VECTOR,
        lambda outputs, targets: with_features(outputs.logits, outputs.features, targets),
    ),
    "the same output twice": problem(
        lambda: Outputs(lambda logits, _: (logits, logits)),
        VECTOR,
        lambda outputs, targets: cross_entropy(outputs[0] + outputs[1].sin(), targets),
    ),
    "an output the loss does not use": problem(
        lambda: Outputs(lambda logits, features: (features, logits)),
        VECTOR,
        lambda outputs, targets: cross_entropy(outputs[1], targets),
    ),
    "integers beside the logits": problem(
        lambda: Outputs(lambda logits, _: (logits, logits.argmax(1))),
        VECTOR,
        lambda outputs, targets: cross_entropy(outputs[0], targets) * (1.0 + outputs[1].double()),
    ),
    "several inputs": problem(TwoInputs, (VECTOR, normal(4, seed=1))),
    "inputs by name": problem(TwoInputs, {"right": normal(4, seed=1), "left": VECTOR}),
    "keyword options": problem(
        Scaled, VECTOR, options={"scale": torch.tensor(0.5).double(), "negate": True}
    ),
    "embedding": problem(Tokens, tokens(4)),
    "the model returns losses": problem(Loss, (VECTOR, TARGETS), lambda outputs, _: outputs),
}
