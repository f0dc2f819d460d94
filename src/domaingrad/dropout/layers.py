"""Which weights of a model can be dropped, and how a user names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.parameter import UninitializedParameter

MASKABLE: Mapping[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("weight",),
    nn.Conv1d: ("weight",),
    nn.Conv2d: ("weight",),
    nn.Conv3d: ("weight",),
    nn.ConvTranspose1d: ("weight",),
    nn.ConvTranspose2d: ("weight",),
    nn.ConvTranspose3d: ("weight",),
    nn.MultiheadAttention: (
        "in_proj_weight",
        "q_proj_weight",
        "k_proj_weight",
        "v_proj_weight",
    ),
}
"""Layers, and which of their parameters are the weights of linear maps: no biases, no norms."""


@dataclass(frozen=True)
class Place:
    """An attribute of a module that holds a weight."""

    module: nn.Module
    attribute: str


@dataclass(frozen=True)
class Target:
    """A weight that is masked, under the name that the model gives it.

    A weight that several layers share is one target with several places.
    """

    name: str
    parameter: nn.Parameter
    places: tuple[Place, ...]


def targets_of(model: nn.Module, layers: str | Sequence[str] | None) -> list[Target]:
    """The trained weights of the chosen layers.

    Args:
        model: the model.
        layers: names of modules, of containers for all layers inside, or patterns with ``*``;
            ``None`` for every layer that can be masked.

    Raises:
        ValueError: there is nothing to mask, or a name matches nothing.
    """
    found = _maskable(model)
    if not found:
        raise ValueError(_nothing_to_mask(model))
    if layers is not None:
        given = [layers] if isinstance(layers, (str, nn.Module)) else layers
        found = _chosen(found, given)
    by_parameter: dict[int, Target] = {}
    for name, place in found.items():
        parameter = getattr(place.module, place.attribute)
        known = by_parameter.get(id(parameter))
        places = (place,) if known is None else (*known.places, place)
        by_parameter[id(parameter)] = Target(known.name if known else name, parameter, places)
    return list(by_parameter.values())


def _maskable(model: nn.Module) -> dict[str, Place]:
    """Places with a trained weight, by the parameter's name."""
    found = {}
    for name, module in model.named_modules():
        for kind, attributes in MASKABLE.items():
            if not isinstance(module, kind):
                continue
            for attribute in attributes:
                parameter = module._parameters.get(attribute)
                if parameter is None or not parameter.requires_grad:
                    continue
                full = f"{name}.{attribute}" if name else attribute
                if isinstance(parameter, UninitializedParameter):
                    raise ValueError(
                        f"{full} is lazy and has no shape yet; run one batch through the model "
                        f"before you make GSNRDropout."
                    )
                if parameter.numel() > 0:
                    found[full] = Place(module, attribute)
    return found


def _chosen(found: Mapping[str, Place], patterns: Sequence[str]) -> dict[str, Place]:
    chosen = set()
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(
                f"layers expects names of modules, or patterns; found a {type(pattern).__name__}."
            )
        matching = {
            name for name in found if name == pattern or _matches(name.rpartition(".")[0], pattern)
        }
        if not matching:
            modules = dict.fromkeys(name.rpartition(".")[0] for name in found)
            near = get_close_matches(pattern, modules, n=3, cutoff=0.3)
            hint = f" Nearest: {', '.join(map(repr, near))}." if near else ""
            raise ValueError(
                f"layers={pattern!r} matches no layer with a trained weight that can be masked."
                f"{hint} Found: {', '.join(map(repr, modules))}."
            )
        chosen |= matching
    if not chosen:
        raise ValueError("layers is empty; name at least one layer, or pass None for all.")
    return {name: place for name, place in found.items() if name in chosen}


def _matches(module: str, pattern: str) -> bool:
    return module == pattern or module.startswith(f"{pattern}.") or fnmatchcase(module, pattern)


def _nothing_to_mask(model: nn.Module) -> str:
    kinds = sorted({type(module).__name__ for module in model.modules()})
    return (
        f"GSNRDropout masks the weights of Linear, Conv1d to Conv3d, transposed convolutions and "
        f"MultiheadAttention; found none that is trained and a parameter of its own (a "
        f"parametrised weight is not). The model has: {', '.join(kinds)}."
    )
