"""Backbones by name: our own small networks, and those of torchvision and timm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache, partial
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from domaingrad.bench.names import Registry, UnknownNameError, look_up

from .mlp import linear, mlp, wide_deep
from .mnist_cnn import mnist_cnn
from .pretrained import IMAGENET, BackboneError, efficientnet_lite0, hf, optional, renormalised
from .squeezenet import squeezenet
from .trees import Trees

Builder = Callable[..., nn.Module]
"""Makes a model from the shape of an input, the number of outputs, and its own arguments."""

SMALL = 32
"""Height and width up to which images are left to ``mnist-cnn``."""
COLOURS = 3
AUXILIARY = ("googlenet", "inception_v3")
"""torchvision's models that give more than one output unless told."""


@dataclass(frozen=True)
class Architecture:
    """A backbone by its name and arguments: all that is needed to build it again.

    >>> str(Architecture("mlp", {"hidden": (64,)}))
    'mlp (hidden (64,))'
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def build(self, shape: tuple[int, ...], outputs: int) -> nn.Module:
        """:func:`build` with the arguments."""
        return build(self.name, shape, outputs, **self.arguments)

    def __str__(self) -> str:
        given = ", ".join(f"{name} {value}" for name, value in self.arguments.items())
        return f"{self.name} ({given})" if given else self.name


def build(name: str, shape: tuple[int, ...], outputs: int, **arguments: Any) -> nn.Module:
    """A backbone with fresh weights; nothing is ever downloaded.

    Its initialisation draws from PyTorch's global generator, as that of every layer. A batch of two
    zeros passes through it once in evaluation mode, so that a shape it cannot take is told here.

    Args:
        name: ``mlp`` (three layers, 128 wide), ``wide-deep`` (a linear model beside one of 32),
            ``mnist-cnn``, ``resnet18``, ``resnet50`` (both
            torchvision's), ``squeezenet``, ``efficientnet-lite0`` (of a package),
            ``torchvision:NAME`` for its classifiers, ``timm:NAME`` (architectures alone:
            ``resnet18``, not ``resnet18.a1_in1k``, which names weights), or ``hf:DIR``, a vision
            model of transformers, with the weights that lie there.
        shape: shape of one input.
        outputs: width of the output.
        arguments: of the backbone itself, as ``hidden`` of ``mlp``.

    Raises:
        UnknownNameError: a name that is in no list.
        BackboneError: its library is missing or broken, or it cannot take such inputs.

    >>> build("mlp", (13,), 2)
    Sequential(
      (0): Flatten(start_dim=1, end_dim=-1)
      (1): Linear(in_features=13, out_features=128, bias=True)
      (2): LeakyReLU(negative_slope=0.01)
      (3): Linear(in_features=128, out_features=128, bias=True)
      (4): LeakyReLU(negative_slope=0.01)
      (5): Linear(in_features=128, out_features=2, bias=True)
    )
    """
    builder = _builder(name)
    if len(shape) != 3 and (":" in name or name in IMAGES):
        raise BackboneError(
            f"{name} takes images of shape (channels, height, width); found inputs of shape "
            f"{shape}. Use mlp, which takes any."
        )
    model = builder(shape, outputs, **arguments)
    _require_passage(model, name, shape, outputs)
    return model


def default_backbone(shape: tuple[int, ...]) -> str:
    """The usual backbone for inputs of a shape, by name.

    >>> default_backbone((13,)), default_backbone((1, 28, 28)), default_backbone((3, 224, 224))
    ('mlp', 'mnist-cnn', 'resnet18')
    """
    if len(shape) != 3:
        return "mlp"
    return "mnist-cnn" if max(shape[1:]) <= SMALL else "resnet18"


def freeze_norms(model: nn.Module) -> int:
    """Keep batch norms in evaluation mode for good; weight and bias are trained as before.

    As DomainBed does: batches from several domains would otherwise mix their statistics. Each norm
    gets a subclass of its own class whose ``train`` always means ``eval``. So ``training`` is false
    at any time, also before the first forward pass, which a hook could not give; and the subclass
    goes with copies, pickles and compiled models. Names in ``state_dict`` stay. Convert to
    ``SyncBatchNorm`` before, if at all: that makes new norms.

    Args:
        model: changed in place.

    Returns:
        How many norms are frozen now; 0 where the model has none with running statistics.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())
    >>> freeze_norms(model)
    1
    >>> [module.training for module in model.train()]
    [True, False, True]
    """
    norms = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]
    for norm in norms:
        if not isinstance(norm, _FixedStatistics):
            kind: Any = type(norm)
            norm.__class__ = _frozen(kind)
        norm.eval()
    return len(norms)


class _FixedStatistics(nn.Module):
    """Goes before the class of a norm."""

    _unfrozen: type[nn.Module]

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode."""
        return super().train(False)

    def __reduce_ex__(self, _protocol: Any) -> tuple[Any, ...]:
        """For ``copy`` and ``pickle``, which cannot find a class that is made at run time."""
        state = self.__getstate__()  # type: ignore[no-untyped-call]
        return _blank, (self._unfrozen,), state


@cache
def _frozen(base: Any) -> Any:
    namespace = {"_unfrozen": base, "__module__": base.__module__}
    return type(f"Frozen{base.__name__}", (_FixedStatistics, base), namespace)


def _blank(base: Any) -> nn.Module:
    """An empty norm for ``copy`` and ``pickle`` to fill."""
    kind = _frozen(base)
    return cast(nn.Module, kind.__new__(kind))


def _builder(name: str) -> Builder:
    library, _, model = name.partition(":")
    if library in LIBRARIES:
        return partial(LIBRARIES[library], model)
    # The list that an error shows names what the libraries have as one entry each.
    listed = {**BACKBONES} | {
        f"{known}:{'DIR' if known == 'hf' else 'NAME'}": partial(of, "NAME")
        for known, of in LIBRARIES.items()
    }
    return look_up("backbone", name, listed)


def _torchvision(name: str, shape: tuple[int, ...], outputs: int) -> nn.Module:
    models = _library("torchvision").models
    _require_known("torchvision", name, models.list_models(module=models))
    if shape[0] != COLOURS:
        raise BackboneError(
            f"torchvision:{name} takes images with {COLOURS} channels; found {shape[0]} in shape "
            f"{shape}. Use a backbone of timm (timm:NAME), which takes any number, or bring the "
            f"images to RGB."
        )
    options: dict[str, Any] = {"weights": None, "num_classes": outputs}
    if name in AUXILIARY:
        options |= {"aux_logits": False, "init_weights": True}
    return cast(nn.Module, models.get_model(name, **options))


def _timm(name: str, shape: tuple[int, ...], outputs: int) -> nn.Module:
    timm = _library("timm")
    _require_known("timm", name, timm.list_models())
    model = timm.create_model(name, pretrained=False, num_classes=outputs, in_chans=shape[0])
    known = model.pretrained_cfg if shape[0] == COLOURS else {}
    mean, std = known.get("mean", IMAGENET[0]), known.get("std", IMAGENET[1])
    return renormalised(cast(nn.Module, model), tuple(mean), tuple(std))


BACKBONES = Registry[Builder]("backbone")
"""Backbones that need no prefix."""

BACKBONES.add("mlp", mlp)
BACKBONES.add("linear", linear)
BACKBONES.add("wide-deep", wide_deep)
BACKBONES.add("boosted-trees", Trees)
BACKBONES.add("forest", partial(Trees, forest=True))
BACKBONES.add("mnist-cnn", mnist_cnn)
BACKBONES.add("squeezenet", squeezenet)
BACKBONES.add("efficientnet-lite0", efficientnet_lite0)
BACKBONES.add("resnet18", partial(_torchvision, "resnet18"))
BACKBONES.add("resnet50", partial(_torchvision, "resnet50"))
IMAGES = ("mnist-cnn", "resnet18", "resnet50", "squeezenet", "efficientnet-lite0")
"""Those of them that take images, and nothing else."""
LIBRARIES: dict[str, Callable[[str, tuple[int, ...], int], nn.Module]] = {
    "hf": hf,
    "timm": _timm,
    "torchvision": _torchvision,
}


def _library(name: Literal["timm", "torchvision"]) -> Any:
    """The library, imported only when it is asked for, as it is optional."""
    try:
        return optional(name, f"a backbone of {name}", "vision")
    # What an extension made for another PyTorch raises, at the first attempt and at later ones.
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        raise BackboneError(
            f"{name} is installed but cannot be imported ({_cause(error)}). Most often torchvision "
            f"is of another build than PyTorch {torch.__version__} (CUDA beside CPU, or another "
            f"release): install both from the same index, as https://pytorch.org/get-started says."
        ) from error


def _require_known(library: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        near = get_close_matches(name.lower().partition(".")[0], known, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        listing = "timm.list_models()" if library == "timm" else "torchvision.models.list_models()"
        raise UnknownNameError(
            f"there is no {library} backbone {name!r}{hint} {listing} lists all {len(known)}."
        )


def _require_passage(model: nn.Module, name: str, shape: tuple[int, ...], outputs: int) -> None:
    """Send two zeros through the model, and leave it in the mode that it was in."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            found = model(torch.zeros(2, *shape))
    # What layers and libraries raise at shapes that they cannot take.
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise BackboneError(
            f"{name} cannot take inputs of shape {shape}: {_cause(error)}. Bring the images to "
            f"the size that it is made for (often 224), or choose another backbone."
        ) from error
    model.train(training)
    if not isinstance(found, Tensor) or found.shape != (2, outputs):
        what = f"shape {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise BackboneError(
            f"{name} gives no {outputs} outputs a sample: expected shape {[2, outputs]} for two, "
            f"found {what}. Choose another backbone."
        )


def _cause(error: Exception) -> str:
    """The first line of an error's text, without its stop."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__
