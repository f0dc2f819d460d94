"""The settings of a training: what was given, and with nothing left open."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, get_args

import torch

import domaingrad
from domaingrad.bench.domains import (
    DATA_SETS,
    IN_MEMORY,
    DataError,
    DataOptions,
    DomainData,
    Schedule,
    Training,
)
from domaingrad.bench.methods import METHODS, Method
from domaingrad.bench.models import BACKBONES, Architecture, default_backbone
from domaingrad.bench.names import import_plugins, look_up
from domaingrad.bench.protocol import Choice, Distribution, PowerOfTen, PowerOfTwo

from .files import RunDirectoryError
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
"""The backbone that a built-in data set brings along."""

DECIDED_BY = "decided_by"
"""Where a written config says what decides the numbers beside its settings."""
MADE_BY = "made_by"
"""Where it says what made the run, for the record."""

OPTIMISATION = ("steps", "batch", "learning_rate", "weight_decay", "schedule", "checkpoints")
"""Settings that :class:`Training` has, too."""

KINDS: dict[type, tuple[str, ...]] = {
    int: ("steps", "batch", "checkpoints", "seed", "trial"),
    float: ("learning_rate", "weight_decay", "dropout"),
    bool: ("frozen_norms", "augment", "compile"),
}
"""Settings by what they are."""
KIND_NAMES: dict[type, str] = {int: "a whole number", float: "a number", bool: "true or false"}


@dataclass(frozen=True)
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
    data_options: DataOptions = field(default_factory=DataOptions)
    backbone: str | None = None
    weights: str | None = None
    """File with the backbone's weights."""
    frozen_norms: bool = False
    dropout: float = 0.0
    """Share of the features that is zeroed in training, before the classifier."""
    augment: bool = True
    """Vary training inputs at random where that is usual for such data."""
    steps: int | None = None
    batch: int | None = None
    """Samples per domain and step."""
    learning_rate: float | None = None
    weight_decay: float | None = None
    schedule: Schedule | None = None
    checkpoints: int | None = None
    """How often, evenly through training, the model is evaluated, kept and may be selected."""
    precision: Precision = "32"
    compile: bool = False
    accelerator: str = "auto"
    seed: int = 0
    trial: int = 0
    plugins: tuple[str, ...] = field(default=(), compare=False)
    """Modules that are imported for what they register."""

    @property
    def held_out(self) -> tuple[str, ...]:
        """The domains that training never sees."""
        return tuple(name for name in (self.hold_out, self.also_hold_out) if name is not None)


def default_training(data: DomainData) -> Training:
    """How such data are usually trained.

    Built-in data have their own recipe; the rest has DomainBed's defaults for photographs (Adam,
    learning rate 5e-5, 32 per domain) and digits (1e-3, 64), 5000 steps. For tables, ours: 1e-3,
    64, 1000 steps.
    """
    if data.built_in:
        return DATA_SETS[data.name].recipe
    photographs = data.preparation.kind == "photographs"
    return Training(
        steps=1000 if _is_table(data) else 5000,
        batch=32 if photographs else 64,
        learning_rate=5e-5 if photographs else 1e-3,
        weight_decay=0.0,
        schedule="constant",
        checkpoints=20,
    )


def search_space(data: DomainData) -> Mapping[str, Distribution]:
    """From what a random search draws the optimisation of such data.

    DomainBed's (arXiv 2007.01434, appendix D) for photographs and the digits of MNIST. For the
    rest, ours: around the defaults as theirs lie.
    """
    if data.preparation.kind == "photographs":
        return {
            "learning_rate": PowerOfTen(-5, -3.5),
            "weight_decay": PowerOfTen(-6, -2),
            "batch": PowerOfTwo(3, 5.5),
            "dropout": Choice((0.0, 0.1, 0.5)),
        }
    if not data.built_in and not _is_table(data):
        return {"learning_rate": PowerOfTen(-4.5, -2.5), "batch": PowerOfTwo(3, 9)}
    usual = default_training(data)
    rate, batch = math.log10(usual.learning_rate), math.log2(usual.batch)
    return {
        "learning_rate": PowerOfTen(rate - 1.5, rate + 0.5),
        "weight_decay": PowerOfTen(-6, -2),
        "batch": PowerOfTwo(batch - 1, batch + 1),
    }


def training_in_words(config: TrainConfig, data: DomainData) -> tuple[str, str]:
    """How models are trained, and how these settings came about.

    Args:
        config: resolved settings.
        data: the data.
    """
    training = training_of(config, data)
    if data.built_in:
        recipe = DATA_SETS[data.name].recipe
        model = str(architecture_of(config, data))
        given = [name for name in OPTIMISATION if getattr(recipe, name) != getattr(training, name)]
        chosen = recipe.chosen
    else:
        usual = default_training(data)
        model = str(config.backbone)
        given = [name for name in OPTIMISATION if getattr(usual, name) != getattr(training, name)]
        chosen = "ours, not tuned" if _is_table(data) else "DomainBed's defaults"
    if given:
        chosen += f"; given, not chosen so: {', '.join(name.replace('_', ' ') for name in given)}"
    if config.weights is not None:
        model += f" with weights of {Path(config.weights).name}"
    return training.described(model), chosen


def checked(config: TrainConfig) -> TrainConfig:
    """The settings, as far as they can be seen to make sense without the data.

    Raises:
        UnknownNameError: a name (of a method, a precision, …) that does not exist.
        DataError: a value of the wrong kind, or no such file of weights.
    """
    import_plugins(config.plugins)
    config = _of_right_kind(config)
    for name, known in (("precision", get_args(Precision)), ("schedule", get_args(Schedule))):
        if (found := getattr(config, name)) is not None:
            look_up(name, found, dict.fromkeys(known))
    if config.weights is not None and not Path(config.weights).expanduser().is_file():
        raise DataError(f"there is no file of weights {config.weights}.")
    if not 0.0 <= config.dropout < 1.0:
        raise DataError(f"{_option('dropout')} must be in [0, 1); found {config.dropout}.")
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
    if config.backbone == OWN and not data.built_in:
        raise DataError(
            f"the backbone {OWN!r} is that of a built-in data set, and {data.name} is none; name "
            f"another."
        )
    training = training_of(config, data)
    return replace(
        config,
        data=_from_anywhere(config.data),
        hyperparameters=method_of(config).hyperparameters(),
        backbone=config.backbone or _default_backbone(data),
        weights=config.weights and str(Path(config.weights).expanduser().absolute()),
        **{name: getattr(training, name) for name in OPTIMISATION},
    )


def _of_right_kind(config: TrainConfig) -> TrainConfig:
    """Numbers that a file gave as texts become numbers.

    Raises:
        DataError: a value that is none of its kind.
    """
    right: dict[str, Any] = {}
    for kind, names in KINDS.items():
        for name in names:
            value = getattr(config, name)
            if value is None:
                continue
            try:
                right[name] = kind(value)
                fits = kind is not bool and not isinstance(value, bool)
                fits = isinstance(value, bool) if kind is bool else fits
                if not fits or (kind is int and float(value) != right[name]):
                    raise ValueError
            except (TypeError, ValueError):
                raise DataError(
                    f"{_option(name)} must be {KIND_NAMES[kind]}; found {value!r}."
                ) from None
    return replace(config, **right, hyperparameters=dict(config.hyperparameters or {}))


def training_of(config: TrainConfig, data: DomainData) -> Training:
    """The part of the settings that is optimisation.

    Raises:
        DataError: a number that makes no sense.
    """
    given = {name: value for name in OPTIMISATION if (value := getattr(config, name)) is not None}
    training = replace(default_training(data), **given)
    for name, least in (("steps", 1), ("batch", 1), ("checkpoints", 1), ("weight_decay", 0)):
        if (found := getattr(training, name)) < least:
            raise DataError(f"{_option(name)} must be at least {least}; found {found}.")
    if not training.weight_decay < math.inf:
        raise DataError(f"--weight-decay must be finite; found {training.weight_decay}.")
    if not 0 < training.learning_rate < math.inf:
        raise DataError(f"--learning-rate must be positive; found {training.learning_rate}.")
    return training


def method_of(config: TrainConfig) -> Method:
    """The method with its hyper-parameters.

    Raises:
        UnknownNameError: it, or one of them, does not exist.
        DataError: a value of the wrong type.
    """
    method = look_up("method", config.method, METHODS)
    defaults = method.hyperparameters()
    given = {}
    for name, value in config.hyperparameters.items():
        kind = type(look_up(f"hyper-parameter of {config.method}", name, defaults))
        try:
            given[name] = kind(value)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{name} of {config.method} must be a {kind.__name__}; found {value!r}."
            ) from error
    return replace(method, **given)


def architecture_of(config: TrainConfig, data: DomainData) -> Architecture:
    """The backbone of resolved settings, or that which a built-in data set brings along."""
    assert config.backbone is not None
    if config.backbone == OWN:
        return DATA_SETS[data.name].recipe.backbone
    return Architecture(config.backbone)


def written(config: TrainConfig, data: DomainData, processes: int = 1) -> dict[str, Any]:
    """Resolved settings as they are written down, and what else decides the numbers and made them.

    Several processes round otherwise than one, so their number decides, too.
    """
    method, built_in = method_of(config), DATA_SETS.get(data.name) if data.built_in else None
    parts: list[object] = [type(method), method.code, type(data.preparation)]
    parts += [built_in.make] if built_in else []
    parts += [BACKBONES[name] for name in [architecture_of(config, data).name] if name in BACKBONES]
    decided_by = {
        "data": data.fingerprint,
        "code": code_of(*parts),
        "numerics": NUMERICS,
        "processes": processes,
    }
    if config.weights is not None:
        decided_by["weights"] = _digest(Path(config.weights))
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

    Settings at their default are left out, so that one that a later release adds makes no other
    run of an old one. Who changes a default raises ``NUMERICS``.
    """
    defaults = json.loads(json.dumps(asdict(TrainConfig("", None))))
    found = {}
    for name, value in written.items():
        default = defaults.get(name)
        own = value
        if isinstance(value, dict) and isinstance(default, dict):
            own, default = {k: v for k, v in value.items() if v != default.get(k)}, {}
        if name not in (MADE_BY, "plugins") and own != default:
            found[name] = own
    return found


def config_from(settings: Mapping[str, Any]) -> TrainConfig:
    """Settings that were written down.

    Raises:
        UnknownNameError: a setting that does not exist.
        RunDirectoryError: one that is missing, or no settings at all.
    """
    known = {entry.name: entry for entry in fields(TrainConfig)}
    given = {n: value for n, value in settings.items() if n not in (DECIDED_BY, MADE_BY)}
    for name in given:
        look_up("setting", name, known)
    if missing := [name for name in ("data", "hold_out") if name not in given]:
        raise RunDirectoryError(f"expected the settings {' and '.join(missing)}; found none.")
    options = given.pop("data_options", {}) or {}
    if not isinstance(options, dict):
        raise RunDirectoryError(f"expected data_options by name; found {options!r}.")
    for name in options:
        look_up("data option", name, vars(DataOptions()))
    texts: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in options.items()
    }
    plugins = tuple(given.pop("plugins", ()) or ())
    import_plugins(plugins)
    return TrainConfig(**given, data_options=DataOptions(**texts), plugins=plugins)


def _is_table(data: DomainData) -> bool:
    return data.preparation.kind == "table" or len(data.preparation.shape) == 1


def _default_backbone(data: DomainData) -> str:
    if data.built_in:
        return OWN
    return "mlp" if _is_table(data) else default_backbone(data.preparation.shape)


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


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _digest(path: Path) -> str:
    there = path.stat()
    return _digest_of(path, there.st_mtime_ns, there.st_size)


@cache
def _digest_of(path: Path, _changed: int, _size: int) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()[:16]
