"""The settings of a training: what was given, and with nothing left open."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import torch
from pydantic import Field, TypeAdapter, ValidationError

import domaingrad
from domaingrad.bench.domains import (
    AUGMENTATIONS,
    DATA_SETS,
    HEADS,
    IN_MEMORY,
    Augmentation,
    Balance,
    DataError,
    DomainData,
    OptimizerName,
    Schedule,
    Training,
    options_of,
)
from domaingrad.bench.methods import Method, method_named
from domaingrad.bench.metrics import METRICS
from domaingrad.bench.models import BACKBONES, Architecture, digest_of
from domaingrad.bench.models.pretrained import HF, PACKAGE, directory_digest, weights_at
from domaingrad.bench.names import import_plugins, look_up
from domaingrad.bench.protocol import TRAIN_SHARE
from domaingrad.bench.schema import (
    Count,
    Number,
    Option,
    SettingError,
    Whole,
    settings,
    without_none,
)

from .averaging import CONVERGE, Average
from .identity import NUMERICS, code_fingerprint, code_of

Precision = Literal["32", "bf16-mixed", "16-mixed"]
"""As Lightning Fabric has them."""

PRECISIONS: dict[Precision, torch.dtype | None] = {
    "32": None,
    "bf16-mixed": torch.bfloat16,
    "16-mixed": torch.float16,
}
"""In which autocast computes."""

OWN = "own"
"""The backbone that data bring along with arguments of its own."""

DECIDED_BY = "decided_by"
"""Where a written config says what decides the numbers beside its settings."""
MADE_BY = "made_by"
"""Where it says what made the run, for the record."""

OPTIMISATION = tuple(entry.name for entry in fields(Training))
"""Settings that :class:`Training` has, too."""
UNSAID = {
    entry.name: entry.default
    for entry in fields(Training)
    if entry.name in ("optimizer", "momentum", "warm_up", "clip_norm", "balance")
} | {"score_over": "domains", "augment": list(AUGMENTATIONS)}
"""Of these, what runs had before it was a setting, and so does not decide."""


@settings
class TrainConfig:
    """What is trained, how; ``None`` where the data decide."""

    data: str
    """``KIND:PATH``, the name of a built-in data set, or a path alone."""
    hold_out: str | None
    """``None`` for no domain."""
    also_hold_out: str | None = None
    """A second one, as leave-one-domain-out selection takes it."""
    method: str = "erm"
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    data_options: Mapping[str, Any] = field(default_factory=dict)
    """What the data's reader is told, by name."""
    backbone: Annotated[
        str | None,
        Option(
            "mlp, wide-deep, mnist-cnn, resnet18, resnet50, squeezenet, efficientnet-lite0, "
            "timm:NAME, torchvision:NAME or hf:DIR; by the data unless told."
        ),
    ] = None
    weights: Annotated[
        str | None,
        Option(
            "The backbone's weights: .pt, .safetensors or .npz, in its names; `package` for those "
            "of efficientnet-lite0."
        ),
    ] = None
    frozen_backbone: Annotated[
        bool,
        Option(
            "Embed all images once by the backbone, and train a head on the embeddings.",
            "--frozen-backbone",
        ),
    ] = False
    head: Annotated[
        Literal["linear", "mlp"] | None,
        Option("What is trained on embeddings; mlp unless told, of tf-idf linear."),
    ] = None
    lp_ft: Annotated[
        bool,
        Option(
            "Begin with a linear head fitted to the backbone's features, then fine-tune all.",
            "--lp-ft",
        ),
    ] = False
    frozen_norms: Annotated[
        bool, Option("Keep BatchNorm's statistics.", "--frozen-norms/--trained-norms")
    ] = False
    dropout: Annotated[
        Number, Field(ge=0, lt=1), Option("Share of the features zeroed before the classifier.")
    ] = 0.0
    augment: Annotated[
        tuple[Augmentation, ...] | None,
        Option(
            "How photographs are varied in training: none, or some of crop, flip, color, gray; all "
            "of these unless the run is short."
        ),
    ] = None
    steps: Annotated[Count | None, Option("Training steps.")] = None
    batch: Annotated[Count | None, Option("Samples per domain and step.")] = None
    balance: Annotated[
        Balance | None, Option("Of what a domain's batch has as many samples each.")
    ] = None
    optimizer: Annotated[OptimizerName | None, Option("Adam unless the data say otherwise.")] = None
    learning_rate: Annotated[Number | None, Field(gt=0), Option("Of the optimizer.")] = None
    weight_decay: Annotated[
        Number | None, Field(ge=0), Option("Of the optimizer; coupled, but for adamw.")
    ] = None
    momentum: Annotated[Number | None, Field(ge=0, lt=1), Option("Of sgd.")] = None
    schedule: Annotated[Schedule | None, Option("Of the learning rate.")] = None
    warm_up: Annotated[
        Whole | None, Field(ge=0), Option("Steps over which the learning rate rises to it.")
    ] = None
    clip_norm: Annotated[
        Number | None, Field(gt=0), Option("Largest norm of a step's gradient; none unless told.")
    ] = None
    metric: Annotated[
        str | None,
        Option(
            "By what models are scored and selected; accuracy, or R² of numbers, unless told.",
            "--metric --select-by",
        ),
    ] = None
    score_over: Annotated[
        Literal["pooled", "domains"] | None,
        Option(
            "Whether the score that selects is of all sources' samples together, as usual of "
            "numbers, or its mean over the sources, as usual of classes."
        ),
    ] = None
    class_weights: Annotated[
        Literal["none", "balanced"],
        Option("Weigh samples in the loss so that each class counts as much (see balance, too)."),
    ] = "none"
    epochs: Annotated[
        Number | None, Field(gt=0), Option("In the place of steps: passes over a mean source.")
    ] = None
    patience: Annotated[
        Count | None,
        Option("End when source validation has not risen for so many checkpoints."),
    ] = None
    checkpoints: Annotated[
        Count | None,
        Option(
            "How often, evenly through training, the model is evaluated, kept and may be selected."
        ),
    ] = None
    average: Annotated[
        Average, Option("Which average over training is evaluated, selected and saved.")
    ] = "none"
    average_from: Annotated[
        Whole, Field(ge=0), Option("Average uniform, ema: steps before it begins.")
    ] = 100
    average_decay: Annotated[
        Number, Field(ge=0, lt=1), Option("Average ema: weight of what was before.")
    ] = 0.999
    average_ratio: Annotated[
        Number,
        Field(ge=0),
        Option("Average swad: how far the validation loss may rise, as a share."),
    ] = 0.3
    precision: Annotated[Precision, Option("In which the network computes.")] = "32"
    compile: Annotated[bool, Option("Use torch.compile.", "--compile/--no-compile")] = False
    workers: Annotated[
        Whole,
        Field(ge=0),
        Option("Processes that fetch inputs ahead, of data that are not kept in memory."),
    ] = field(default=0, compare=False)
    accelerator: Annotated[str, Option("auto, cpu, cuda, mps.")] = "auto"
    plugins: Annotated[
        tuple[str, ...],
        Option("Modules that register methods, rules, data, backbones.", "--plugin"),
    ] = field(default=(), compare=False)
    seed: Whole = 0
    trial: Whole = 0

    @property
    def held_out(self) -> tuple[str, ...]:
        """The domains that training never sees."""
        return tuple(name for name in (self.hold_out, self.also_hold_out) if name is not None)


def training_in_words(config: TrainConfig, data: DomainData) -> tuple[str, str]:
    """How models are trained, and how these settings came about.

    Args:
        config: resolved settings.
        data: the data.
    """
    training, recipe = training_of(config, data), data.recipe
    model, chosen = str(architecture_of(config, data)), recipe.chosen
    model += f" on embeddings by {config.backbone}" if config.frozen_backbone else ""
    given = [name for name in OPTIMISATION if getattr(recipe, name) != getattr(training, name)]
    if given:
        chosen += f"; given, not chosen so: {', '.join(name.replace('_', ' ') for name in given)}"
    if config.weights is not None:
        model += f" with weights of {Path(config.weights).name}"
    model += ", from a fitted head" if config.lp_ft else ""
    if config.average != "none":
        model += f" averaged over training ({config.average})"
    varied = [name for name in config.augment or () if name != "none"]
    model += f", images varied ({', '.join(varied)})" if varied else ""
    scored = f", scored by {METRICS[config.metric].title}" if config.metric else ""
    if config.class_weights != "none":
        scored = f", classes weighed alike{scored}"
    return f"{training.described(model)}{scored}", chosen


def checked(config: TrainConfig) -> TrainConfig:
    """The settings, as far as they can be seen to make sense without the data.

    Raises:
        UnknownNameError: a method or hyper-parameter that does not exist.
        DataError: no such file of weights.
    """
    import_plugins(config.plugins)
    if (config.frozen_backbone or config.lp_ft) and config.backbone is None:
        raise SettingError(
            "expected the backbone to be named where it is frozen or fine-tuned from a fitted "
            "head; found none. Name one that has weights, as efficientnet-lite0."
        )
    if config.frozen_backbone and config.lp_ft:
        raise SettingError(
            "a frozen backbone is not fine-tuned; found frozen_backbone and lp_ft. Leave one out."
        )
    file = _weights(config)
    if file is not None and not Path(file).is_file():
        raise DataError(f"there is no file of weights {config.weights}.")
    method_of(config)
    return config


def resolved(config: TrainConfig, data: DomainData) -> TrainConfig:
    """The settings with nothing left to the data, and paths that hold from anywhere.

    Raises:
        UnknownNameError: a domain, a method or a hyper-parameter that does not exist.
        DataError: a number that makes no sense.
    """
    config = checked(config)
    for name in config.held_out:
        look_up("domain", name, dict(data.domains))
    if config.also_hold_out is not None and config.hold_out in (None, config.also_hold_out):
        raise DataError(
            f"also_hold_out is a second domain beside hold_out; found {config.also_hold_out} "
            f"beside {config.hold_out}."
        )
    training, usual = training_of(config, data), data.recipe.backbone
    _require_average(config, training)
    if config.class_weights != "none" and data.task == "regression":
        raise SettingError("class_weights weigh classes; found labels that are numbers.")
    if config.head is not None and (
        usual not in HEADS.values()
        or (not config.frozen_backbone and config.backbone not in (None, OWN))
    ):
        raise SettingError(
            f"a head is trained on embeddings or texts; found the head {config.head} of "
            f"{data.name} with the backbone {config.backbone}. Leave it out, or freeze that."
        )
    if config.metric is not None:
        metric = look_up("metric", config.metric, METRICS)
        shares = data.task != "regression"
        fitting = [
            name
            for name, m in METRICS.items()
            if m.task == data.task and m.higher and m.percent == shares
        ]
        if config.metric not in fitting:
            raise SettingError(
                f"expected a metric of {data.task} of which more is better, one of "
                f"{', '.join(fitting)}; found {metric.title}."
            )
    return replace(
        config,
        data=_from_anywhere(config.data),
        data_options=_told(config),
        hyperparameters=method_of(config).hyperparameters(),
        backbone=method_of(config).backbone
        or _placed(config.backbone)
        or (OWN if usual.arguments else usual.name),
        weights=_weights(config),
        **{name: getattr(training, name) for name in OPTIMISATION},
        augment=_varied(config, data, training),
        epochs=None,
        score_over=config.score_over or ("pooled" if data.task == "regression" else "domains"),
    )


def training_of(config: TrainConfig, data: DomainData) -> Training:
    """The part of the settings that is optimisation."""
    once = {"steps": 1, "checkpoints": 1, "warm_up": 0} if method_of(config).requires.whole else {}
    given = without_none({name: getattr(config, name) for name in OPTIMISATION})
    if config.epochs is not None:
        if config.steps is not None:
            raise SettingError(
                f"expected steps or epochs; found {config.steps} and {config.epochs:g} of them."
            )
        held = (*config.held_out, *data.never_sources)
        sizes = [len(own) for name, own in data.domains.items() if name not in held]
        batch = given.get("batch", data.recipe.batch)
        samples = TRAIN_SHARE * sum(sizes) / max(1, len(sizes))
        given["steps"] = math.ceil(config.epochs * samples / batch)
    return replace(data.recipe, **given | once)


def method_of(config: TrainConfig) -> Method:
    """The method with its hyper-parameters.

    Raises:
        UnknownNameError: it, or one of them, does not exist.
        SettingError: a value of the wrong type.
    """
    method = method_named(config.method)
    known, kinds = method.hyperparameters(), get_type_hints(type(method))
    found = {}
    for name, value in config.hyperparameters.items():
        look_up(f"hyper-parameter of {config.method}", name, known)
        try:
            found[name] = TypeAdapter(kinds[name]).validate_python(value)
        except ValidationError as error:
            said = error.errors()[0]["msg"]
            raise SettingError(
                f"{name} of {config.method}: {said[0].lower()}{said[1:]}; found {value!r}."
            ) from None
    return replace(method, **found)


def _require_average(config: TrainConfig, training: Training) -> None:
    """See that an average that is asked for comes about.

    Raises:
        SettingError: it does not.
    """
    if config.average in ("uniform", "ema") and config.average_from >= training.steps:
        raise SettingError(
            f"average_from has to be before training ends; found {config.average_from} of "
            f"{training.steps} steps. Begin earlier."
        )
    if config.average == "swad" and min(training.checkpoints, training.steps) < CONVERGE:
        raise SettingError(
            f"average swad takes {CONVERGE} checkpoints or more, since each ends a segment; found "
            f"{training.checkpoints}. Take more checkpoints."
        )


def _varied(
    config: TrainConfig, data: DomainData, training: Training
) -> tuple[Augmentation, ...] | None:
    """How photographs are varied; ``None`` of data that never are.

    Raises:
        SettingError: it is asked for where it cannot be, or for and against.
    """
    told = config.augment
    if (told is not None and len({*told}) > 1 and "none" in told) or told == ():
        raise SettingError(
            f"augment: expected none, or some of {', '.join(AUGMENTATIONS)}; found "
            f"{', '.join(told) or 'nothing'}."
        )
    if not data.preparation.varies:
        if told not in (None, ("none",)):
            raise SettingError(
                f"augment varies photographs that a network sees; {data.name} has "
                f"{data.preparation.kind}. Leave it out."
            )
        return None
    if told is None:
        return AUGMENTATIONS if training.steps >= data.recipe.varied_from else ("none",)
    return tuple(name for name in get_args(Augmentation) if name in told)


def architecture_of(config: TrainConfig, data: DomainData) -> Architecture:
    """The backbone of resolved settings, or that which the data bring along."""
    assert config.backbone is not None
    if config.head is not None:
        return HEADS[config.head]
    if config.backbone == OWN or config.frozen_backbone:
        return data.recipe.backbone
    return Architecture(config.backbone)


def written(config: TrainConfig, data: DomainData, processes: int = 1) -> dict[str, Any]:
    """Resolved settings as they are written down, and what else decides the numbers and made them.

    Several processes round otherwise than one, so their number decides, too.
    """
    method, built_in = method_of(config), DATA_SETS.get(data.name) if data.built_in else None
    parts: list[object] = [type(method), method.code, type(data.preparation)]
    parts += [built_in.make] if built_in else []
    parts += [METRICS[config.metric].of] if config.metric else []
    parts += [BACKBONES[name] for name in [architecture_of(config, data).name] if name in BACKBONES]
    decided_by = {
        "data": data.fingerprint,
        "code": code_of(*parts),
        "numerics": NUMERICS,
        "processes": processes,
    }
    if config.weights is not None:
        decided_by["weights"] = digest_of(Path(config.weights))
    elif config.backbone is not None and config.backbone.startswith(HF):
        decided_by["weights"] = directory_digest(Path(config.backbone.removeprefix(HF)))
    made_by = {
        "domaingrad": domaingrad.__version__,
        "code": code_fingerprint(),
        "torch": torch.__version__,
    }
    more = {DECIDED_BY: decided_by, MADE_BY: made_by}
    settings: dict[str, Any] = json.loads(json.dumps(asdict(config) | more))
    return settings


def deciding(written: Mapping[str, Any]) -> dict[str, Any]:
    """Of settings as they are written down, what decides the numbers.

    Settings at their default, or at what runs had before they were settings, are left out, so that
    one that a later release adds makes no other run of an old one. Who changes a default raises
    ``NUMERICS``.
    """
    defaults = json.loads(json.dumps(asdict(TrainConfig("", None))))
    found = {}
    for name, value in written.items():
        default = defaults.get(name)
        own = value
        if isinstance(value, dict) and isinstance(default, dict):
            own, default = {k: v for k, v in value.items() if v != default.get(k)}, {}
        if name not in (MADE_BY, "plugins", "workers") and own not in (
            default,
            UNSAID.get(name, default),
        ):
            found[name] = own
    return found


def config_from(written: Mapping[str, Any]) -> TrainConfig:
    """Settings that were written down.

    Raises:
        SettingError: one that does not exist, is missing, or does not fit.
    """
    settings = {n: value for n, value in written.items() if n not in (DECIDED_BY, MADE_BY)}
    for name in ("hyperparameters", "data_options"):
        settings[name] = settings.get(name) or {}
    config = TrainConfig(**settings | {"plugins": plugins_of(settings)})
    import_plugins(config.plugins)
    return config


def plugins_of(written: Mapping[str, Any]) -> tuple[str, ...]:
    """The modules that settings name.

    Raises:
        SettingError: they are no names.
    """
    found = written.get("plugins") or ()
    if not isinstance(found, list | tuple) or not all(isinstance(name, str) for name in found):
        raise SettingError(f"plugins: expected names of modules; found {found!r}.")
    return tuple(found)


def _told(config: TrainConfig) -> dict[str, Any]:
    """A reader's options that are not at their defaults."""
    if not config.data_options:
        return {}
    told = options_of(config.data, config.data_options)
    return {
        entry.name: value
        for entry in fields(told)
        if (value := getattr(told, entry.name)) != entry.default
    }


def _weights(config: TrainConfig) -> str | None:
    """The file of the backbone's weights, if there is one."""
    given = config.weights
    if config.backbone is not None and (given == PACKAGE or config.frozen_backbone or config.lp_ft):
        given = weights_at(config.backbone, given)
    return given and str(Path(given).expanduser().absolute())


def _placed(backbone: str | None) -> str | None:
    """With an absolute path, where it has one."""
    if backbone is None or not backbone.startswith(HF):
        return backbone
    return f"{HF}{Path(backbone.removeprefix(HF)).expanduser().absolute()}"


def _from_anywhere(data: str) -> str:
    """With an absolute path, where there is one."""
    kind, separator, place = data.rpartition(":")
    if kind == IN_MEMORY:
        return data
    if Path(data).exists():
        kind, separator, place = "", "", data
    if data in DATA_SETS or not Path(place).expanduser().exists():
        return data
    return f"{kind}{separator}{Path(place).expanduser().absolute()}"
