"""Options that several commands share: of data, and of training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from domaingrad.bench.domains import Schedule
from domaingrad.bench.domains.face_sets import PROTOCOLS
from domaingrad.bench.names import look_up
from domaingrad.bench.runs.settings import Precision

Plugin = Annotated[
    list[str], typer.Option("--plugin", help="Modules that register methods, data, backbones.")
]
Target = Annotated[str | None, typer.Option(help="Table: the column to predict.")]
Domain = Annotated[str | None, typer.Option(help="Table: the column of domains.")]
Categorical = Annotated[list[str], typer.Option(help="Table: columns whose numbers are names.")]
Drop = Annotated[list[str], typer.Option(help="Table: columns to leave out.")]
Missing = Annotated[list[str], typer.Option(help="Table: texts for a missing value, as '?'.")]
TaskName = Annotated[
    str | None, typer.Option("--task", help="Table: classification or regression.")
]
Size = Annotated[int | None, typer.Option(help="Images: height and width.  [default: 224]")]
SkipUnreadable = Annotated[
    bool, typer.Option("--skip-unreadable", help="Images: leave out those that are broken.")
]
Protocol = Annotated[
    str | None,
    typer.Option(
        help=f"Faces: sources and the set held out, one of {', '.join(PROTOCOLS)} (in quotes)."
    ),
]
Backbone = Annotated[
    str | None,
    typer.Option(
        help="mlp, mnist-cnn, resnet18, resnet50, timm:NAME or torchvision:NAME.  "
        "[default: by the data]"
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(help="The backbone's weights: .pt, .safetensors or .npz, in its names."),
]
FrozenNorms = Annotated[
    bool | None,
    typer.Option("--frozen-norms/--trained-norms", help="Keep BatchNorm's statistics."),
]
Dropout = Annotated[
    float | None, typer.Option(help="Share of the features zeroed before the classifier.")
]
Augment = Annotated[
    bool | None,
    typer.Option("--augment/--no-augment", help="Vary photographs at random in training."),
]
Steps = Annotated[int | None, typer.Option(help="Training steps.")]
Batch = Annotated[int | None, typer.Option(help="Samples per domain and step.")]
LearningRate = Annotated[float | None, typer.Option(help="Of Adam.")]
WeightDecay = Annotated[float | None, typer.Option(help="Of Adam, coupled.")]
LearningRateSchedule = Annotated[
    str | None,
    typer.Option("--schedule", help=f"Of the learning rate: {', '.join(get_args(Schedule))}."),
]
Checkpoints = Annotated[
    int | None, typer.Option(help="How often the model is evaluated, kept and may be selected.")
]
PrecisionName = Annotated[
    str | None,
    typer.Option("--precision", help=f"{', '.join(get_args(Precision))}.  [default: 32]"),
]
Compile = Annotated[bool | None, typer.Option("--compile/--no-compile", help="Use torch.compile.")]
Devices = Annotated[
    int | None,
    typer.Option(help="Processes that train together on this node, one a device.  [default: 1]"),
]
Nodes = Annotated[
    int | None, typer.Option(help="Nodes on which this command is given.  [default: 1]")
]
Accelerator = Annotated[str | None, typer.Option(help="auto, cpu, cuda, mps.  [default: auto]")]


def data_options(
    target: str | None,
    domain: str | None,
    categorical: list[str],
    drop: list[str],
    missing: list[str],
    task: str | None,
    size: int | None,
    skip_unreadable: bool,
    protocol: str | None,
) -> dict[str, Any]:
    """What was given of a reader's options, by name."""
    return without_none(
        {
            "target": target,
            "domain": domain,
            "task": task,
            "size": size,
            "skip_unreadable": skip_unreadable or None,
            "protocol": protocol,
            "categorical": listed(categorical),
            "drop": listed(drop),
            "missing": tuple(missing) or None,
        }
    )


def held_out_of(protocol: str) -> str:
    """The set of faces that a protocol holds out.

    Raises:
        UnknownNameError: a protocol that does not exist.
    """
    return look_up("protocol", protocol, PROTOCOLS)[1]


def listed(texts: list[str]) -> tuple[str, ...] | None:
    """Values given one by one or with commas."""
    return tuple(name.strip() for text in texts for name in text.split(",") if name.strip()) or None


def without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """What was given."""
    return {name: value for name, value in values.items() if value is not None}
