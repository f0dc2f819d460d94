"""MNIST's 70,000 digits from their official files, coloured or rotated by domain."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.utils.data import TensorDataset

from domaingrad.bench.disk import opened, unpacked
from domaingrad.bench.schema import Option, settings

from .data import DataError, DomainData, Domains, News, Preparation, Reader, ReaderOptions
from .digits import ANGLES, COLOUR_FLIP, coloured, rotated
from .recipes import for_digits

FILES = {
    "train-images-idx3-ubyte": "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte": "t10k-labels-idx1-ubyte",
}
"""The official files of images, and the labels of each; either may end in ``.gz``."""
OFFICIAL_COUNT = 70_000
FEWEST = 100
_FOLDERS = (".", "MNIST/raw", "raw")
"""Where the files lie below the folder that is named: there, or as torchvision leaves them."""
_ABOUT = "MNIST, 11 MB, licence usually cited as CC BY-SA 3.0"
_MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_BYTES = 0x08
"""The code of unsigned bytes in the third byte of an idx file; the fourth is the dimensions."""


@dataclass(frozen=True)
class Digits(Preparation):
    """Images of digits in bytes, brought to [0, 1].

    >>> Digits(channels=1, height=1, width=2)(torch.tensor([[[[0, 255]]]], dtype=torch.uint8))
    tensor([[[[0., 1.]]]])
    """

    kind: ClassVar[str] = "digits"

    channels: int
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width."""
        return self.channels, self.height, self.width

    def __call__(self, stored: Tensor) -> Tensor:
        """Bytes [n, c, h, w] over 255."""
        return stored.float() / 255


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The array in an idx file of unsigned bytes, packed with gzip or not.

    Args:
        path: the file; whether it is packed is seen from its first bytes, not from its name.
        dimensions: how many there should be, 3 for images and 1 for labels.

    Raises:
        DataError: a file that cannot be read, is no such idx file, or is too short or too long.
    """
    raw = _or_told(unpacked, path)
    start, shape = _shape(path, raw, dimensions)
    if len(raw) != start + prod(shape):
        raise DataError(
            f"{path} should have {start + prod(shape):,} bytes for its shape {shape} and has "
            f"{len(raw):,}; fetch the file again."
        )
    # A copy, for arrays over bytes cannot be written to and torch warns of them.
    return np.frombuffer(raw, dtype=np.uint8, offset=start).reshape(shape).copy()


def _or_told(read: Callable[[Path], bytes], path: Path) -> bytes:
    try:
        return read(path)
    except (OSError, EOFError, zlib.error) as cause:
        raise DataError(f"{path} cannot be read ({cause}); fetch the file again.") from cause


def _header(path: Path) -> bytes:
    """Of a file of images, packed or not."""
    with opened(path) as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        return (gzip.GzipFile(fileobj=file) if packed else file).read(16)


def _shape(path: Path, raw: bytes, dimensions: int) -> tuple[int, tuple[int, ...]]:
    """Where values begin, and their shape."""
    magic = bytes([0, 0, _BYTES, dimensions])
    if raw[:4] != magic:
        raise DataError(
            f"{path} should be an idx file of {dimensions}-dimensional bytes, which starts with "
            f"{magic.hex()}, and starts with {raw[:4].hex() or 'nothing'}; fetch the file again."
        )
    start = 4 + 4 * dimensions
    return start, tuple(int.from_bytes(raw[at : at + 4], "big") for at in range(4, start, 4))


@settings
class MNISTOptions(ReaderOptions):
    """What a reader of MNIST may be told."""

    drawn: Annotated[
        Literal["each-trial", "once"],
        Option("MNIST: order, flips and colors, for each trial (as DomainBed) or once for all."),
    ] = "each-trial"


def read_colored_mnist(
    path: Path, options: MNISTOptions, news: News, generator: Generator
) -> DomainData:
    """ColoredMNIST (Arjovsky et al., arXiv 1907.02893), as DomainBed deals it out.

    All digits in random order, dealt out to +90%, +80% and -90%; label 1 for digits under 5,
    flipped with probability .25, and coloured by the label with probability .9, .8 and .1.
    Order, flips and colours are drawn for each trial (DomainBed draws them for each run; ours are
    the same for all methods), or all from one generator with seed 0.

    Args:
        path: the folder of the official files; torchvision downloads them to it where absent.
        options: of which ``drawn`` is heeded.
        news: hears of a download.
        generator: of the trial.

    Raises:
        DataError: files that are absent and cannot be downloaded, or that are not MNIST's.
    """
    classes = ("5 to 9", "0 to 4")
    if options.counted:
        return _counted("colored-mnist", path, news, tuple(COLOUR_FLIP), 2, classes)
    return _read("colored-mnist", path, news, coloured, classes, _drawn_from(options, generator))


def read_rotated_mnist(
    path: Path, options: MNISTOptions, news: News, generator: Generator
) -> DomainData:
    """RotatedMNIST (Ghifary et al., arXiv 1508.07680), as DomainBed deals it out.

    All digits in random order, drawn as those of ColoredMNIST; dealt out to 0°, 15°, … 75° and
    rotated by that, counter-clockwise and bilinear.

    Args:
        path: the folder of the official files; torchvision downloads them to it where absent.
        options: of which ``drawn`` is heeded.
        news: hears of a download, and how many digits are rotated.
        generator: of the trial.

    Raises:
        DataError: files that are absent and cannot be downloaded, or that are not MNIST's.
    """
    classes = tuple(map(str, range(10)))
    if options.counted:
        return _counted("rotated-mnist", path, news, tuple(ANGLES), 1, classes)
    return _read(
        "rotated-mnist",
        path,
        news,
        lambda images, digits, _: rotated(images, digits, news),
        classes,
        _drawn_from(options, generator),
    )


def _drawn_from(options: MNISTOptions, of_trial: Generator) -> Generator | None:
    return of_trial if options.drawn == "each-trial" else None


def _read(
    name: str,
    path: Path,
    news: News,
    deal: Callable[[Tensor, Tensor, Generator], Domains],
    classes: tuple[str, ...],
    drawn_from: Generator | None,
) -> DomainData:
    images, digits = _digits(_folder(path, news))
    generator = torch.Generator().manual_seed(0) if drawn_from is None else drawn_from
    order = torch.randperm(len(digits), generator=generator)
    domains = deal(images[order], digits[order], generator)
    kind = name if drawn_from is None else f"{name} of each trial"
    content = sha256(kind.encode() + images.numpy().tobytes() + digits.numpy().tobytes())
    return replace(_dealt(name, domains, classes), fingerprint=content.hexdigest())


def _counted(
    name: str, path: Path, news: News, domains: Sequence[str], channels: int, classes: Sequence[str]
) -> DomainData:
    """Random bytes for as many digits as the headers of the files tell."""
    folder = _folder(path, news)
    files = [_file(folder, name) for name in FILES]
    shapes = [_shape(file, _or_told(_header, file), dimensions=3)[1] for file in files]
    labels = torch.arange(sum(shape[0] for shape in shapes)) % len(classes)
    parts = zip(domains, labels.chunk(len(domains)), strict=True)
    drawn = {
        domain: TensorDataset(
            torch.randint(256, (len(own), channels, *shapes[0][1:]), dtype=torch.uint8), own
        )
        for domain, own in parts
    }
    return replace(_dealt(name, drawn, classes), counted=True)


def _dealt(name: str, domains: Domains, classes: Sequence[str]) -> DomainData:
    inputs, _ = next(iter(domains.values())).tensors
    count = sum(len(domain) for domain in domains.values())
    return DomainData(
        name=name,
        domains=domains,
        preparation=Digits(*inputs.shape[1:]),
        recipe=for_digits(tuple(inputs.shape[1:])),
        task="classification",
        classes=tuple(classes),
        notes=()
        if count == OFFICIAL_COUNT
        else (f"MNIST has {OFFICIAL_COUNT:,} digits; these files have {count:,}.",),
    )


def _digits(folder: Path) -> tuple[Tensor, Tensor]:
    """All digits in the order of the files: uint8 images [n, h, w] and labels 0 … 9."""
    images, labels = [], []
    for of_images, of_labels in FILES.items():
        images.append(read_idx(_file(folder, of_images), dimensions=3))
        labels.append(read_idx(_file(folder, of_labels), dimensions=1))
        if len(images[-1]) != len(labels[-1]):
            raise DataError(
                f"{folder} has {len(images[-1]):,} images in {of_images} and {len(labels[-1]):,} "
                f"labels in {of_labels}, which should be as many; fetch both again."
            )
    shapes = {part.shape[1:] for part in images}
    digits = np.concatenate(labels)
    if len(shapes) > 1 or digits.max(initial=0) > 9:
        raise DataError(
            f"{folder} should have images of one size and labels 0 … 9, and has the sizes "
            f"{sorted(shapes)} and labels up to {digits.max(initial=0)}: these are not MNIST's "
            f"files."
        )
    if len(digits) < FEWEST:
        raise DataError(
            f"{folder} should have at least {FEWEST} digits to deal out and has {len(digits)}; "
            f"fetch the files again."
        )
    return torch.from_numpy(np.concatenate(images)), torch.from_numpy(digits).long()


def _file(folder: Path, name: str) -> Path:
    """By the official name, or with a dot before idx; either may be packed."""
    names = [plain + end for end in ("", ".gz") for plain in (name.replace("-idx", ".idx"), name)]
    return next((folder / each for each in names if (folder / each).exists()), folder / names[-1])


def _names() -> tuple[str, ...]:
    return tuple(name for pair in FILES.items() for name in pair)


def _complete(path: Path) -> Path | None:
    """The folder, at or below the path, that has all four files."""
    for folder in (path / below for below in _FOLDERS):
        if all(_file(folder, name).exists() for name in _names()):
            return folder
    return None


def _folder(path: Path, news: News) -> Path:
    """The folder of the files, which are downloaded if they are not there."""
    found = _complete(path)
    if found is not None:
        return found
    by_hand = (
        f"put the four official files ({', '.join(_names())}, with or without .gz) into {path}, "
        f"from {_MIRROR}; {_ABOUT}."
    )
    try:
        datasets = import_module("torchvision.datasets")
    # The last three come of one of another build than torch, at the first attempt or at later ones.
    except (ImportError, RuntimeError, OSError, AttributeError) as cause:
        raise DataError(
            f"{path} has not all of MNIST's files, and torchvision, which would download them, "
            f"cannot be imported ({cause}): {by_hand}"
        ) from cause
    news.say(f"downloading to {path}: {_ABOUT}")
    try:
        datasets.MNIST(str(path), download=True)
    except (OSError, RuntimeError) as cause:
        raise DataError(f"MNIST cannot be downloaded ({cause}): {by_hand}") from cause
    found = _complete(path)
    if found is None:
        raise DataError(f"torchvision left no files of MNIST below {path}: {by_hand}")
    return found


COLORED_MNIST = Reader(
    kind="colored-mnist",
    summary="MNIST's digits, under 5 or not, 25 % of labels flipped; the colour tells the label "
    "better than the shape does, and in domain -90% it tells the opposite.",
    read=read_colored_mnist,
    options=MNISTOptions,
    draws=True,
)
ROTATED_MNIST = Reader(
    kind="rotated-mnist",
    summary="MNIST's digits in ten classes, rotated by 0, 15, … 75° by domain.",
    read=read_rotated_mnist,
    options=MNISTOptions,
    draws=True,
)
