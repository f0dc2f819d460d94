"""Weights from a file into a model that may have another head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import file_digest
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from domaingrad.bench.disk import is_machines, read_arrays

from .network import classifiers_of

SHOWN = 10
"""Names that an error lists before it counts the rest."""
NESTING = ("state_dict", "model", "model_state_dict", "model_state")
"""Under which training scripts put a model's weights."""
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "encoder.", "net.", "network.")
"""What DataParallel, ``torch.compile`` and training scripts put before names."""
HEADS = ("head", "heads", "fc", "_fc", "classifier", "logits", "last_linear", "head_dist")
"""What models call their head; one in a file that a model has no place for is left out."""
COUNTER = "num_batches_tracked"
"""What batch norms count, and old files lack; it moves nothing unless momentum is ``None``."""


class WeightsError(ValueError):
    """Weights that cannot be read or do not fit: what was found, and what to do."""


@dataclass(frozen=True)
class WeightsReport:
    """What came of loading weights."""

    loaded: int
    """Tensors taken from the file."""
    head: tuple[str, ...]
    """Names that keep their initialisation, since the file has another head, or none."""
    unused: tuple[str, ...] = ()
    """Names of the file's own head, where the model has it not."""


def load_weights(model: nn.Module, path: Path) -> WeightsReport:
    """Take a model's weights from a file whose names are the model's own.

    Everything must be there and fit, but for the head (:func:`~.network.classifiers_of`): where its
    tensors are missing, or of another number of outputs, they keep their initialisation, and a head
    of another name in the file is left out. Values take the dtype and device of the model's. A
    model is changed only if all is well.

    Args:
        model: changed in place.
        path: ``.pt`` or ``.pth`` of PyTorch (tensors by name, also under ``state_dict``, ``model``
            and the like; all names, or all but the head's, may begin with ``module.``,
            ``_orig_mod.``, ``model.``, ``backbone.`` or several of them), ``.safetensors``, or
            ``.npz``.

    Raises:
        WeightsError: a file that cannot be read, holds code, or does not fit.
    """
    expected: dict[str, Tensor] = model.state_dict()
    found = _unwrapped(_read(path), expected)
    missing = [n for n in expected if n not in found and n.rpartition(".")[2] != COUNTER]
    unexpected = [name for name in found if name not in expected]
    common = [name for name in expected if name in found]
    differing = [name for name in common if found[name].shape != expected[name].shape]
    is_head = _head_of(model)
    head: tuple[str, ...] = ()
    if all(is_head(n) and _width(found[n]) == _width(expected[n]) for n in differing):
        head, differing = tuple(differing), []
    unused: tuple[str, ...] = ()
    if len(missing) < len(expected) and all(map(is_head, missing)):
        head, missing = (*head, *missing), []
        unused = tuple(name for name in unexpected if name.partition(".")[0] in HEADS)
        unexpected = [name for name in unexpected if name not in unused]
    shapes = [f"{n} {list(found[n].shape)} for {list(expected[n].shape)}" for n in differing]
    dtypes = [
        f"{name} {_plain(found[name].dtype)} for {_plain(expected[name].dtype)}"
        for name in common
        if found[name].is_floating_point() != expected[name].is_floating_point()
    ]
    faults = [
        _listed(names, fault)
        for names, fault in (
            (missing, "missing"),
            (unexpected, "unexpected"),
            (shapes, "of another shape"),
            (dtypes, "of another kind of number"),
        )
        if names
    ]
    if faults:
        raise WeightsError(
            f"{path} does not fit the model: of its {len(expected)} tensors and the file's "
            f"{len(found)}, {'; '.join(faults)}. Choose the backbone, channels and image size "
            f"that the file was made with; only the number of outputs may differ."
        )
    taken = {name: found[name] for name in common if name not in head}
    model.load_state_dict(taken, strict=False)
    return WeightsReport(len(taken), head, unused)


def _head_of(model: nn.Module) -> Callable[[str], bool]:
    """Whether a tensor is of the layers that yield the outputs, by its name."""
    heads = classifiers_of(model)
    within = tuple(
        f"{name}." if name else ""
        for name, module in model.named_modules()
        if any(module is head for head in heads)
    )
    return lambda name: name.startswith(within)


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise WeightsError(f"expected a file with weights at {path}; found {found}.")
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise WeightsError(
            f"weights are read from {', '.join(READERS)}; found {path}. Rename the file if it is "
            f"of one of these kinds, or convert it."
        )
    try:
        loaded = READERS[suffix](path)
    except WeightsError:
        raise
    # A damaged file raises whatever its bytes happen to mean: KeyError, EOFError, RuntimeError, …
    except Exception as error:
        if is_machines(error):
            raise
        cause = str(error).strip().partition("\n")[0].partition(". ")[0]
        raise WeightsError(
            f"{path} cannot be read as {suffix} ({type(error).__name__}: {cause or 'no more told'})"
            f"; it may be cut off or of another kind. Fetch or save it again."
        ) from error
    return _tensors(loaded, path)


def _from_torch(path: Path) -> Any:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        _, _, cause = str(error).partition("WeightsUnpickler error: ")
        if not cause.startswith("Unsupported"):
            raise
        raise WeightsError(
            f"{path} holds Python objects beside tensors, which are not opened since they can run "
            f"code ({cause.partition('. ')[0]}). Where you trust it, load it yourself and save its "
            f"state_dict() alone."
        ) from error
    while isinstance(loaded, Mapping):
        inner = [loaded[key] for key in NESTING if isinstance(loaded.get(key), Mapping)]
        if not inner:
            break
        loaded = inner[0]
    return loaded


def _from_safetensors(path: Path) -> Any:
    try:
        from safetensors.torch import load_file  # noqa: PLC0415 - an optional dependency
    except ModuleNotFoundError as error:
        raise WeightsError(
            f"{path} needs safetensors, which is not installed; run "
            f"`pip install 'domaingrad[vision]'`."
        ) from error
    return load_file(path)


def _from_npz(path: Path) -> Any:
    return {name: torch.from_numpy(array) for name, array in read_arrays(path).items()}


READERS: dict[str, Callable[[Path], Any]] = {
    ".pt": _from_torch,
    ".pth": _from_torch,
    ".safetensors": _from_safetensors,
    ".npz": _from_npz,
}


def _tensors(loaded: Any, path: Path) -> Mapping[str, Tensor]:
    if not isinstance(loaded, Mapping):
        raise WeightsError(
            f"{path} should hold tensors by name; found a {type(loaded).__name__}. Save the "
            f"model's state_dict()."
        )
    others = [f"{name} ({type(v).__name__})" for name, v in loaded.items() if not _fits(name, v)]
    if others or not loaded:
        raise WeightsError(
            f"{path} should hold tensors by name, by themselves or under 'state_dict' or 'model'; "
            f"found {_listed(others, 'others') if others else 'none'}. Save the model's "
            f"state_dict()."
        )
    return loaded


def _fits(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor)


def _unwrapped(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], deep: int = 4
) -> Mapping[str, Tensor]:
    """With those prefixes off, up to ``deep``, by which most names are the model's."""
    best = found
    for prefix in PREFIXES if deep and not expected.keys() <= found.keys() else ():
        if any(name.startswith(prefix) for name in found):
            short = {name.removeprefix(prefix): value for name, value in found.items()}
            tried = _unwrapped(short, expected, deep - 1) if len(short) == len(found) else found
            if len(expected.keys() & tried.keys()) > len(expected.keys() & best.keys()):
                best = tried
    return best


def _width(tensor: Tensor) -> list[int]:
    """Shape of what an output is made of; a 1 × 1 convolution is a linear layer."""
    return [size for size in tensor.shape[1:] if size != 1]


def digest_of(path: Path) -> str:
    """Hash of a file, read again where it has changed."""
    there = path.stat()
    return _digest_of(path, there.st_mtime_ns, there.st_size)


@cache
def _digest_of(path: Path, _changed: int, _size: int) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()[:16]


def _listed(names: Sequence[str], fault: str) -> str:
    rest = f", … and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} {fault} ({', '.join(names[:SHOWN])}{rest})"


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
