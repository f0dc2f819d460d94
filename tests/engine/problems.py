"""Models that are awkward in one way each, with a batch of uneven, shuffled domains."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint

LABELS = (-3, 0, 7, 10**12)
SIZES = (2, 3, 5, 7)
CLASSES = 3


@dataclass(frozen=True)
class Problem:
    build: Callable[[], nn.Module]
    inputs: Any
    targets: Tensor
    domain: Tensor
    losses: Callable[[Any, Tensor], Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    rounding_noise: frozenset[str] = frozenset()
    """Parameters that hold components whose true gradient is zero: rounding gives them signs."""

    @property
    def labels(self) -> list[int]:
        return sorted(set(self.domain.tolist()))

    def only(self, *labels: int) -> Problem:
        rows = torch.tensor([label in labels for label in self.domain.tolist()])
        return replace(
            self,
            inputs=select(self.inputs, rows),
            targets=self.targets[rows],
            domain=self.domain[rows],
        )


def select(inputs: Any, rows: Tensor) -> Any:
    if isinstance(inputs, tuple):
        return tuple(select(part, rows) for part in inputs)
    if isinstance(inputs, dict):
        return {name: select(part, rows) for name, part in inputs.items()}
    return inputs[rows]


def call(model: nn.Module, inputs: Any, options: dict[str, Any]) -> Any:
    if isinstance(inputs, tuple):
        return model(*inputs, **options)
    if isinstance(inputs, dict):
        return model(**inputs, **options)
    return model(inputs, **options)


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="none")


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, CLASSES))


def cnn(norm: Callable[[int], nn.Module]) -> nn.Sequential:
    # No bias before a norm: its true gradient is zero.
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False),
        norm(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, stride=2, bias=False),
        norm(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, CLASSES),
    )


def cnn_in_eval_mode() -> nn.Module:
    model = cnn(nn.BatchNorm2d)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return model.eval()


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, CLASSES))
    model[2].weight = model[0].weight
    return model


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


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 5, batch_first=True)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 5, padding_idx=0)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embedding(tokens).tanh().mean(1))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(6, 2, 12, dropout=0.1, batch_first=True)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).mean(1))


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


class Loss(nn.Module):
    """The model returns the losses themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, x: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(self.body(x), targets)


def _problems() -> dict[str, Problem]:
    draw = torch.Generator().manual_seed(0)
    n = sum(SIZES)
    shuffle = torch.randperm(n, generator=draw)
    domain = torch.tensor(LABELS).repeat_interleave(torch.tensor(SIZES))[shuffle]
    targets = torch.randint(0, CLASSES, (n,), generator=draw)

    def normal(*shape: int) -> Tensor:
        return torch.randn(n, *shape, generator=draw, dtype=torch.float64)

    def problem(
        build: Callable[[], nn.Module],
        inputs: Any,
        losses: Callable[[Any, Tensor], Tensor] = cross_entropy,
        **others: Any,
    ) -> Problem:
        return Problem(build, inputs, targets, domain, losses, **others)

    vector, image, sequence = normal(6), normal(2, 9, 9), normal(4, 6)
    return {
        "mlp": problem(mlp, vector),
        "group norm": problem(lambda: cnn(lambda width: nn.GroupNorm(2, width)), image),
        "batch norm": problem(lambda: cnn(nn.BatchNorm2d), image),
        "batch norm in eval mode": problem(cnn_in_eval_mode, image),
        "tied weights": problem(tied, vector),
        "frozen parameters": problem(frozen, vector),
        "unused by some domains": problem(Expert, (vector, (domain == LABELS[0]).double())),
        "unused by all": problem(Spare, vector),
        "dropout": problem(
            lambda: nn.Sequential(nn.Linear(6, 20), nn.Dropout(0.5), nn.Linear(20, CLASSES)), vector
        ),
        "nested modules": problem(Nested, vector),
        "tuple output": problem(
            lambda: Outputs(lambda logits, features: (logits, features)),
            vector,
            lambda outputs, targets: with_features(*outputs, targets),
        ),
        "nested output": problem(
            lambda: Outputs(
                lambda logits, features: {"logits": logits, "more": [features, None, "name"]}
            ),
            vector,
            lambda outputs, targets: with_features(outputs["logits"], outputs["more"][0], targets),
        ),
        "named tuple output": problem(
            lambda: Outputs(Named),
            vector,
            lambda outputs, targets: with_features(outputs.logits, outputs.features, targets),
        ),
        "the same output twice": problem(
            lambda: Outputs(lambda logits, _: (logits, logits)),
            vector,
            lambda outputs, targets: cross_entropy(outputs[0] + outputs[1].sin(), targets),
        ),
        "an output the loss does not use": problem(
            lambda: Outputs(lambda logits, features: (features, logits)),
            vector,
            lambda outputs, targets: cross_entropy(outputs[1], targets),
        ),
        "integers beside the logits": problem(
            lambda: Outputs(lambda logits, _: (logits, logits.argmax(1))),
            vector,
            lambda outputs, targets: (
                cross_entropy(outputs[0], targets) * (1.0 + outputs[1].double())
            ),
        ),
        "several inputs": problem(TwoInputs, (vector, normal(4))),
        "inputs by name": problem(TwoInputs, {"right": normal(4), "left": vector}),
        "keyword options": problem(
            Scaled, vector, options={"scale": torch.tensor(0.5).double(), "negate": True}
        ),
        "recurrent": problem(Recurrent, sequence),
        "embedding": problem(Tokens, torch.randint(0, 11, (n, 4), generator=draw)),
        # The key's third of in_proj_bias has a true gradient of zero.
        "attention": problem(
            Attention, sequence, rounding_noise=frozenset({"layer.self_attn.in_proj_bias"})
        ),
        "checkpoint": problem(lambda: Checkpointed(use_reentrant=False), vector),
        "re-entrant checkpoint": problem(lambda: Checkpointed(use_reentrant=True), vector),
        "spectral norm": problem(
            lambda: nn.Sequential(spectral_norm(nn.Linear(6, 8)), nn.Linear(8, CLASSES)), vector
        ),
        "weight norm": problem(
            lambda: nn.Sequential(weight_norm(nn.Linear(6, 8)), nn.Linear(8, CLASSES)), vector
        ),
        "a loss per pixel": problem(
            lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Conv2d(3, 1, 3)),
            (image,),
            lambda outputs, targets: (
                (outputs.squeeze(1) - targets[:, None, None]).square().mean((1, 2))
            ),
        ),
        "the model returns losses": problem(Loss, (vector, targets), lambda outputs, _: outputs),
    }


PROBLEMS = _problems()
