"""Lets torchvision be imported where its extension is of another build than PyTorch."""

import importlib.util
from pathlib import Path

import torch

OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def _operators_for_torchvision() -> torch.library.Library | None:
    """Define what importing torchvision asks for; nothing if it is missing or brings it itself.

    A CUDA build beside a CPU PyTorch, as two package indexes give it, cannot load its extension,
    and then ``import torchvision`` fails. Its models need nothing of it.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return None
    for extension in Path(spec.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(extension)
        except OSError:
            continue
        return None
    library = torch.library.Library("torchvision", "DEF")
    for operator in OPERATORS:
        library.define(operator)
    return library


# Kept, since the operators go with it.
OPERATORS_FOR_TORCHVISION = _operators_for_torchvision()
