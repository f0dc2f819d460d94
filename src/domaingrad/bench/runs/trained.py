"""A trained model with all that is needed to use it: classes, preparation, scale of the labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from domaingrad.bench.checked import DamagedError
from domaingrad.bench.disk import RunDirectoryError
from domaingrad.bench.domains import Preparation, Task, preparation_from
from domaingrad.bench.models import PREDICTORS, Architecture, Network, Predictor
from domaingrad.bench.names import look_up

from .trainer import TargetScaler, outputs_on

METADATA = "domaingrad"
_CHECKSUM = ', "sha256": "'
"""Before the last value of the metadata, of all tensors and of the rest of it."""
FORMAT = 3
"""Number of the layout of the metadata; another number is refused."""


class TrainedModel(nn.Module):
    """A model in use: what predicts, and all that has to be known of its inputs and outputs.

    Args:
        predictor: of prepared inputs [n, *shape].
        architecture: of its network.
        data: name of the data it was trained on.
        transform: makes of stored inputs what it sees.
        task: classes or numbers.
        classes: their names.
        target: scale of the labels.
        sources: the domains it was trained on.
        held_out: the domain it never saw.
        facts: how it came about: method, hyper-parameters, the step it was selected at.
    """

    def __init__(
        self,
        predictor: Network | Predictor,
        architecture: Architecture,
        *,
        data: str,
        transform: Preparation,
        task: Task,
        classes: tuple[str, ...],
        target: TargetScaler,
        sources: tuple[str, ...],
        held_out: str | None,
        facts: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.predictor, self.architecture, self.data = predictor, architecture, data
        self.transform, self.task, self.classes, self.target = transform, task, classes, target
        self.sources, self.held_out, self.facts = sources, held_out, facts

    def forward(self, x: Tensor) -> Tensor:
        """Logits, or a scaled number, [n, outputs] of prepared inputs [n, *shape]."""
        outputs: Tensor = self.predictor(x)
        return outputs

    def predict(self, inputs: Tensor | str | Path | Sequence[str | Path]) -> Tensor:
        """What the model says of inputs before their preparation, as the data have them.

        Args:
            inputs: a batch, as uint8 pictures [n, 3, size, size] or rows of a table; or files and
                folders, in the order of :meth:`files`.

        Returns:
            Probabilities [n, classes], on the CPU; for regression numbers [n].

        Raises:
            DataError: files that cannot be read.
        """
        if not isinstance(inputs, Tensor):
            _, inputs = self.files([inputs] if isinstance(inputs, str | Path) else inputs)
        return self.outputs(inputs)

    def files(self, paths: Sequence[str | Path]) -> tuple[list[str], Tensor]:
        """Names and stored inputs of the samples in files and folders.

        Raises:
            DataError: files of another kind, or unreadable ones.
        """
        return self.transform.read([Path(path) for path in paths])

    @staticmethod
    def weights_of(predictor: nn.Module) -> dict[str, Tensor]:
        """Copies of all that :meth:`content` takes of a predictor.

        Raises:
            TypeError: it is none that a file could hold.
        """
        if isinstance(predictor, Network):
            state = predictor.plain_state()
        elif isinstance(predictor, Predictor):
            state = predictor.state_dict()
        else:
            raise TypeError(
                f"expected a Network or a registered Predictor to evaluate and save; found a "
                f"{type(predictor).__name__}."
            )
        return {name: t.detach().cpu().clone().contiguous() for name, t in state.items()}

    def put(self, weights: Mapping[str, Tensor]) -> None:
        """Take weights as :meth:`weights_of` has them."""
        if isinstance(self.predictor, Network):
            self.predictor.load_plain_state(dict(weights))
        else:
            self.predictor.load_state_dict(dict(weights))

    def outputs(self, stored: Tensor, rows: Tensor | None = None) -> Tensor:
        """What the model puts out for (some rows of) stored inputs.

        Probabilities [n, classes] for classes; else numbers in the unit of the labels, shape [n].
        """
        self.eval()
        found = outputs_on(
            self,
            self.transform,
            stored,
            torch.arange(len(stored)) if rows is None else rows,
            next(self.parameters()).device,
        )
        if not found.isfinite().all():
            odd = int((~found.isfinite().all(1)).sum())
            raise RunDirectoryError(
                f"the model's outputs for {odd} of {len(found)} samples are not finite: its "
                f"training has diverged. Train again, with a smaller learning rate for a start."
            )
        if self.task == "classification":
            return found.softmax(1)
        return self.target.unscaled(found.squeeze(1))

    @property
    def network(self) -> Network:
        """The network within the predictor."""
        found = self.predictor
        return found.network if isinstance(found, Predictor) else found

    def content(self, weights: Mapping[str, Tensor], facts: Mapping[str, Any]) -> bytes:
        """A safetensors file with these weights and facts and the rest; :meth:`load` reads it."""
        wrapped = self.predictor if isinstance(self.predictor, Predictor) else None
        described = {
            "format": FORMAT,
            "predictor": wrapped and {"name": wrapped.name, "arguments": wrapped.arguments},
            "architecture": asdict(self.architecture),
            "data": self.data,
            "preparation": self.transform.described(),
            "task": self.task,
            "classes": list(self.classes),
            "target": asdict(self.target),
            "sources": list(self.sources),
            "held_out": self.held_out,
            "facts": dict(facts),
        }
        told = json.dumps(described)
        # One entry alone, for safetensors writes several in any order.
        told = f'{told[:-1]}{_CHECKSUM}{_digest(weights, told[:-1])}"}}'
        return save(dict(weights), {METADATA: told})

    @classmethod
    def load(cls, path: Path) -> TrainedModel:
        """Read what :meth:`content` made.

        Raises:
            RunDirectoryError: no such file, or not one of this version's.
        """
        described, weights = read_model(path)
        try:
            described = asdict(_DESCRIBED.validate_python(described))
            preparation = preparation_from(described["preparation"])
            classes = tuple(described["classes"])
            task: Task = described["task"]
            architecture = Architecture(**described["architecture"])
            model = architecture.build(preparation.shape, len(classes) or 1)
            network = Network(model, preparation.shape)
            predictor: Network | Predictor = network
            if (wrapped := described["predictor"]) is not None:
                kind = look_up("predictor", wrapped["name"], PREDICTORS)
                predictor = kind(network, **wrapped["arguments"])
            _require_fit(cls.weights_of(predictor), weights)
            made = cls(
                predictor,
                architecture,
                data=described["data"],
                transform=preparation,
                task=task,
                classes=classes,
                target=TargetScaler(**described["target"]),
                sources=tuple(described["sources"]),
                held_out=described["held_out"],
                facts=described["facts"],
            )
            made.put(weights)
        except (KeyError, TypeError, RuntimeError, AttributeError, ValueError) as error:
            told = " ".join(str(error).partition("\nFor further")[0].split())
            raise RunDirectoryError(
                f"{path} describes no model that its weights fit ({type(error).__name__}: {told}); "
                f"use the version of domaingrad and of the plug-ins that wrote it."
            ) from error
        return made.eval()


@dataclass
class _Named:
    name: str
    arguments: dict[str, Any]


@dataclass
class _Described:
    """What a file says of its model."""

    format: int
    predictor: _Named | None
    architecture: _Named
    data: str
    preparation: dict[str, Any]
    task: Task
    classes: list[str]
    target: TargetScaler
    sources: Annotated[list[str], Field(min_length=1)]
    held_out: str | None
    facts: dict[str, Any]


_DESCRIBED = TypeAdapter(_Described)


def read_model(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a file says of a model, and its weights.

    Raises:
        RunDirectoryError: no such file, not one of this version's, or not what was written.
    """
    try:
        if not path.is_file():
            raise FileNotFoundError("there is no such file")
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise RunDirectoryError(
            f"cannot read a model from {path} ({error}); name the directory of a run that has "
            f"come to its first checkpoint and still has its model (a sweep keeps those "
            f"that it is told to keep)."
        ) from error
    told = metadata.get(METADATA, "{}")
    try:
        described: dict[str, Any] = json.loads(told)
        found = described.get("format")
    except (ValueError, AttributeError, RecursionError):
        found = None
    if found != FORMAT:
        raise RunDirectoryError(
            f"{path} is no model of this version: expected format {FORMAT}, found {found}."
        )
    plain, _, given = told.rpartition(_CHECKSUM)
    if given != f'{_digest(weights, plain)}"}}':
        raise DamagedError(
            f"{path} is damaged: its checksum differs. Give the command that trained it again, "
            f"which writes it anew from the last checkpoint."
        )
    return described, weights


def _require_fit(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """See that tensors are those of a model, by name, shape and kind.

    A tensor without entries stands for one that a model grows to what it is given.

    Raises:
        ValueError: they are not.
    """
    grows = {n for n, t in expected.items() if not t.numel() and n in found}
    kinds = [
        {n: (t.ndim if n in grows else list(t.shape), t.dtype) for n, t in each.items()}
        for each in (expected, found)
    ]
    if differing := sorted(n for n in kinds[0] | kinds[1] if kinds[0].get(n) != kinds[1].get(n)):
        name = differing[0]
        raise ValueError(f"{name} should be {kinds[0].get(name)} and is {kinds[1].get(name)}")


def _digest(weights: Mapping[str, Tensor], told: str) -> str:
    digest = sha256(told.encode())
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
