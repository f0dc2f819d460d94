"""From an image file to the pixels of one fixed size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from threading import Lock
from typing import TypeVar

import joblib
import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from domaingrad.bench.disk import is_machines, opened

from .data import DataError

MOST_PIXELS = 2**26
"""Of an image; with more it is taken for one that is made to fill the memory."""
LARGE = 2**24
"""Pixels of an image that is decoded while no other is."""
_LARGE = Lock()

T = TypeVar("T")
R = TypeVar("R")

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
"""Endings, in lower case, by which a file in a folder counts as an image."""

AT_ONCE = 64
"""Items done before the first of them is handed on; bounds the memory that images take."""


def is_image(path: Path | str) -> bool:
    """Whether the name ends as images' names do.

    >>> is_image("Dog.JPG"), is_image("splits.txt")
    (True, False)
    """
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def decode(path: Path, size: int) -> Tensor:
    """The image in a file as uint8 [3, size, size].

    Turned upright as its EXIF orientation says, brought to RGB, and squashed to a square with
    Pillow's antialiased bilinear filter, as in DomainBed. Transparency is dropped, not blended, as
    there; 16-bit greys are scaled to 8 bits; of an animation the first frame counts.

    Raises:
        DataError: a file that is missing, empty, cut short or no image, or an image of more than
            :data:`MOST_PIXELS` or of a mode without a known range.
    """
    try:
        with opened(path) as file, Image.open(file) as image, _room_for(image):
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"it has more than {MOST_PIXELS:,} pixels")
            upright = ImageOps.exif_transpose(image)
            squashed = _to_rgb(upright).resize((size, size), Image.Resampling.BILINEAR)
    except Exception as error:  # a damaged file makes Pillow's decoders raise almost anything
        if is_machines(error):
            raise
        raise DataError(f"{path} cannot be decoded: {_cause(path, error)}.") from error
    return torch.from_numpy(np.array(squashed)).permute(2, 0, 1).contiguous()


def _room_for(image: Image.Image) -> AbstractContextManager[object]:
    """Large images are decoded one after the other, lest those of all threads fill the memory."""
    return _LARGE if image.width * image.height > LARGE else nullcontext()


def decode_each(files: Sequence[Path], size: int) -> Iterator[Tensor | DataError]:
    """What :func:`decode` returns or raises for each file, in order, in as many threads as CPUs."""

    def outcome(path: Path) -> Tensor | DataError:
        try:
            return decode(path, size)
        except DataError as error:
            return error

    yield from in_threads(outcome, files)


def in_threads(work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """What a function returns for each item, in order, by as many threads as CPUs.

    Whatever ends it, no more is begun.
    """
    pool = ThreadPoolExecutor(joblib.cpu_count())
    try:
        for start in range(0, len(items), AT_ONCE):
            yield from pool.map(work, items[start : start + AT_ONCE])
    finally:
        pool.shutdown(cancel_futures=True)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _eight_bits(image).convert("RGB")
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if image.mode == "P" or image.mode.endswith("a"):  # a palette's transparency; premultiplied
        image = image.convert("RGBA")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Greys of 16 bits, which Pillow's own conversion would clip at 255."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ValueError("its pixels are integers beyond 16 bits, of unknown range")
    return Image.fromarray(np.round(values / 257).astype(np.uint8))


def _cause(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, UnidentifiedImageError):
        return "the file is empty" if path.stat().st_size == 0 else "no image format is recognised"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error).rstrip(".") or type(error).__name__
