"""A trained model with all that is needed to use it: classes, preparation, scale of the labels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from domaingrad.bench.domains import DATA_SETS, Preparation, Task, preparation_from
from domaingrad.bench.models import build

from .files import RunDirectoryError
from .fitting import Labels, outputs_on

METADATA = "domaingrad"
FORMAT = 1
"""Number of the layout of the metadata; another number is refused."""
OWN = "own"
"""The backbone that a built-in data set brings along."""


@dataclass(frozen=True)
class Trained:
    """A model in use."""

    model: nn.Module
    backbone: str
    data: str
    """Name of the data it was trained on."""
    preparation: Preparation
    task: Task
    classes: tuple[str, ...]
    labels: Labels
    sources: tuple[str, ...]
    held_out: str | None
    facts: Mapping[str, Any]
    """How it came about: method, hyper-parameters, the step it was selected at."""

    def outputs(self, stored: Tensor, rows: Tensor | None = None) -> Tensor:
        """What the model puts out for (some rows of) stored inputs.

        Probabilities [n, classes] for classes; else numbers in the unit of the labels, shape [n].
        """
        self.model.eval()
        found = outputs_on(
            self.model,
            self.preparation,
            stored,
            torch.arange(len(stored)) if rows is None else rows,
            next(self.model.parameters()).device,
        )
        if not found.isfinite().all():
            odd = int((~found.isfinite().all(1)).sum())
            raise RunDirectoryError(
                f"the model's outputs for {odd} of {len(found)} samples are not finite: its "
                f"training has diverged. Train again, with a smaller learning rate for a start."
            )
        if self.task == "classification":
            return found.softmax(1)
        return self.labels.unscaled(found.squeeze(1))

    def content(self, weights: Mapping[str, Tensor]) -> bytes:
        """A safetensors file with these weights and all the rest; :meth:`load` reads it."""
        described = {
            "format": FORMAT,
            "backbone": self.backbone,
            "data": self.data,
            "preparation": self.preparation.described(),
            "task": self.task,
            "classes": list(self.classes),
            "labels": asdict(self.labels),
            "sources": list(self.sources),
            "held_out": self.held_out,
            "facts": dict(self.facts),
        }
        return save(dict(weights), {METADATA: json.dumps(described)})

    @classmethod
    def load(cls, path: Path) -> Trained:
        """Read what :meth:`content` made.

        Raises:
            RunDirectoryError: no such file, or not one of this version's.
        """
        try:
            with safe_open(path, "pt") as file:
                metadata = (file.metadata() or {}).get(METADATA)
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise RunDirectoryError(
                f"cannot read a model from {path} ({error}); name the directory of a run that has "
                f"come to its first checkpoint and still has its model (domaingrad sweep keeps "
                f"models with --keep-models)."
            ) from error
        described = json.loads(metadata) if metadata else {}
        if described.get("format") != FORMAT:
            raise RunDirectoryError(
                f"{path} is no model of this version: expected format {FORMAT}, found "
                f"{described.get('format')}."
            )
        preparation = preparation_from(described["preparation"])
        classes = tuple(described["classes"])
        task: Task = described["task"]
        model = make_model(
            described["backbone"], described["data"], preparation.shape, len(classes) or 1
        )
        model.load_state_dict(weights)
        return cls(
            model=model.eval(),
            backbone=described["backbone"],
            data=described["data"],
            preparation=preparation,
            task=task,
            classes=classes,
            labels=Labels(**described["labels"]),
            sources=tuple(described["sources"]),
            held_out=described["held_out"],
            facts=described["facts"],
        )


def make_model(backbone: str, data: str, shape: tuple[int, ...], outputs: int) -> nn.Module:
    """A backbone by name, or a built-in data set's own."""
    if backbone == OWN:
        return DATA_SETS[data].recipe.model(shape, outputs)
    return build(backbone, shape, outputs)
