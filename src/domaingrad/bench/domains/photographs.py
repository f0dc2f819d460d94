"""Photographs: stored as bytes, normalised as for ImageNet, varied as DomainBed varies them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from .data import AS_USUAL, DataError, Preparation, Reading
from .decoding import decode_each, is_image
from .files import listed, visible
from .recipes import AUGMENTATIONS

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of the channels over ImageNet, in [0, 1]."""

AREA = (0.7, 1.0)
"""Share of the image that a crop keeps."""
RATIO = (3 / 4, 4 / 3)
"""Width of a crop over its height."""
ATTEMPTS = 10
"""Crops tried before the whole image is taken."""
JITTER = 0.3
"""Largest change of brightness, contrast and saturation as a factor, of hue in turns."""
GRAYSCALE = 0.1
FLIP = 0.5

Adjustment = Callable[[Tensor, Tensor], Tensor]
"""Of images in [0, 1], by a factor per image."""


@dataclass(frozen=True)
class Photographs(Preparation):
    """RGB images of one size, stored as uint8 [n, 3, kept, kept].

    Args:
        size: height and width that a model sees.
        stored: those that are kept, for training to crop from; ``size`` unless given. DomainBed
            crops from the original, so its crops are sharper than those of a square of ``size``;
            twice that comes near (a square it remains).

    Raises:
        DataError: a size below 1, or stored smaller than seen.
    """

    kind: ClassVar[str] = "photographs"

    size: int
    stored: int | None = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise DataError(f"the size of images must be 1 or more. Found {self.size}.")
        if self.kept < self.size:
            raise DataError(
                f"images cannot be stored smaller than they are seen, {self.size}. Found "
                f"{self.stored}."
            )

    @property
    def kept(self) -> int:
        """Height and width of stored images."""
        return self.size if self.stored is None else self.stored

    @property
    def shape(self) -> tuple[int, ...]:
        """Three channels, height, width."""
        return (3, self.size, self.size)

    def __call__(self, stored: Tensor) -> Tensor:
        """Of the size seen, scaled to [0, 1], then by ImageNet's mean and standard deviation."""
        images = stored.float().div_(255)
        if stored.shape[-1] != self.size:
            height, width = stored.shape[2:]
            whole = torch.tensor([[0.0, 0.0, width, height]])  # the same for all
            images = resampled(images, whole, torch.zeros(1).bool(), self.size)
        return _normalised(images)

    def augmented(
        self,
        stored: Tensor,
        generator: Generator,
        total: int | None = None,
        part: slice = slice(None),
        by: Collection[str] = AUGMENTATIONS,
    ) -> Tensor:
        """Crop, flip, colours and grayscale at random, as DomainBed does (arXiv 2007.01434).

        Every image has its own draws, the order of the colours' changes included. They are made on
        the CPU, so the same state of the generator gives the same batch on any device, and what is
        left out of ``by`` changes nothing in the rest. Two things
        differ from DomainBed: the crop is taken from the stored square, not from the file (from a
        larger one than is seen with antialiasing, as there), and the colours are not rounded to
        bytes in between.
        """
        n = len(stored) if total is None else total
        draws = torch.rand(n, 2 * ATTEMPTS + 12, generator=generator)[part]
        if not len(stored):
            return self(stored)
        crop, flip, factors, order, grayscale = torch.split(
            draws, [2 * ATTEMPTS + 2, 1, 4, 4, 1], 1
        )
        height, width = stored.shape[2:]
        images, flipped = stored.float().div_(255), (flip[:, 0] < FLIP) & ("flip" in by)
        whole = torch.tensor([[0.0, 0.0, width, height]]).expand(len(stored), 4)
        crops = _crops(crop, height, width) if "crop" in by else whole
        if width == self.size:
            images = _cropped(images, crops, flipped)
        else:
            images = resampled(images, crops, flipped, self.size)
        if "color" in by:
            _jitter(images, factors, order.argsort(dim=1))
        if "gray" in by:
            rows = _rows(grayscale[:, 0] < GRAYSCALE, images)
            images[rows] = luminance(images[rows]).expand(-1, 3, -1, -1)
        return _normalised(images)

    def read(self, paths: Sequence[Path], reading: Reading = AS_USUAL) -> tuple[list[str], Tensor]:
        """Decode image files, and those in folders however deep.

        Raises:
            DataError: a path that does not exist, a folder without images, files that cannot be
                decoded.
        """
        files = [file for path in paths for file in _files(path)]
        if not files:
            raise DataError("no image files to read; give at least one file or folder.")
        outcomes = list(decode_each(files, self.kept))
        errors = [outcome for outcome in outcomes if isinstance(outcome, DataError)]
        told = f"{len(errors):,} of {len(files):,} images cannot be decoded"
        if len(errors) == len(files) or (errors and not reading.skip_unreadable):
            raise DataError(f"{told}; mend them or leave them out.\n{listed(errors)}")
        if errors:
            reading.news.say(f"Note: {told} and are left out: {listed(errors)}")
        read = [(str(f), o) for f, o in zip(files, outcomes, strict=True) if isinstance(o, Tensor)]
        return [name for name, _ in read], torch.stack([image for _, image in read])


def luminance(images: Tensor) -> Tensor:
    """Grey [n, 1, h, w] of images in RGB (ITU-R 601-2)."""
    red, green, blue = images.unbind(1)
    return (0.2989 * red).add_(green, alpha=0.587).add_(blue, alpha=0.114).unsqueeze(1)


def brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Mix with black, in place; factors of shape [n]."""
    return images.mul_(factors[:, None, None, None]).clamp_(0, 1)


def contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Mix with each image's mean grey, in place; factors of shape [n]."""
    return _mixed(images, luminance(images).mean(dim=(1, 2, 3), keepdim=True), factors)


def saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Mix with the grey image, in place; factors of shape [n]."""
    return _mixed(images, luminance(images), factors)


def hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue, in place, value and chroma kept; turns of shape [n], 1 being all round."""
    red, green, blue = images.unbind(1)
    # Memory is written over again and again: to fetch new costs several times the arithmetic.
    value = torch.maximum(red, green)
    torch.maximum(value, blue, out=value)
    chroma = torch.minimum(red, green)
    torch.minimum(chroma, blue, out=chroma)
    torch.sub(value, chroma, out=chroma)

    # Sixths of a turn from red, by which channel is the largest.
    is_red, is_green = value == red, value == green
    sixths, scratch = red - green, blue - red
    torch.where(is_green, scratch, sixths, out=sixths)
    torch.sub(green, blue, out=scratch)
    torch.where(is_red, scratch, sixths, out=sixths)
    # Where the chroma is 0, so is the difference, and the hue does not matter.
    sixths.div_(torch.clamp_min(chroma, torch.finfo(images.dtype).tiny, out=scratch))
    sixths.add_(scratch.fill_(4).masked_fill_(is_green, 2).masked_fill_(is_red, 0))
    sixths.add_(6 * turns[:, None, None])

    for channel, shift in zip(images.unbind(1), (5, 3, 1), strict=True):
        distance = torch.add(sixths, shift, out=scratch)
        distance.sub_(torch.div(distance, 6, out=channel).floor_(), alpha=6)  # remainder is slow
        torch.minimum(distance, torch.neg(distance, out=channel).add_(4), out=distance)
        torch.addcmul(value, distance.clamp_(0, 1), chroma, value=-1, out=channel)
    return images


ADJUSTMENTS: tuple[Adjustment, ...] = (brightness, contrast, saturation, hue)


def _jitter(images: Tensor, draws: Tensor, order: Tensor) -> None:
    """Adjust images in place, each in its own order; draws in [0, 1) and order of shape [n, 4]."""
    amounts = JITTER * (2 * draws - 1)
    amounts[:, :3] += 1  # factors about 1, but the hue turns about 0
    for place in range(len(ADJUSTMENTS)):
        for number, adjust in enumerate(ADJUSTMENTS):
            chosen = order[:, place] == number
            rows = _rows(chosen, images)
            if len(rows):
                factors = amounts[chosen, number].to(images)
                images.index_copy_(0, rows, adjust(images.index_select(0, rows), factors))


def _crops(draws: Tensor, height: int, width: int) -> Tensor:
    """Left, top, width and height of a crop per row of draws in [0, 1), whole pixels [n, 4].

    Area and the ratio's logarithm are uniform; what does not fit into the image is drawn again, up
    to ten times, and then the whole image is taken, as torchvision's RandomResizedCrop does with a
    square.
    """
    area, ratio, place = torch.split(draws, [ATTEMPTS, ATTEMPTS, 2], 1)
    area = (AREA[0] + (AREA[1] - AREA[0]) * area) * height * width
    low, high = torch.tensor(RATIO).log()
    ratio = (low + (high - low) * ratio).exp()
    size = torch.stack([(area * ratio).sqrt().round(), (area / ratio).sqrt().round()], dim=2)
    whole = torch.tensor([width, height], dtype=size.dtype)
    fits = ((size >= 1) & (size <= whole)).all(2)
    first = fits.int().argmax(1)
    size = torch.where(fits.any(1)[:, None], size[torch.arange(len(size)), first], whole)
    corner = (place * (whole - size + 1)).floor()
    return torch.cat([corner, size], dim=1)


def _cropped(images: Tensor, crops: Tensor, flipped: Tensor) -> Tensor:
    """Crops [n, 4] of images brought to the images' size, bilinear, some mirrored."""
    height, width = images.shape[2:]
    x = _positions(crops[:, 0], crops[:, 2], width)
    y = _positions(crops[:, 1], crops[:, 3], height)
    x = torch.where(flipped[:, None], x.flip(1), x)
    grid = torch.stack(
        [
            x[:, None, :].expand(-1, height, -1),
            y[:, :, None].expand(-1, -1, width),
        ],
        dim=3,
    )
    return F.grid_sample(images, grid.to(images), padding_mode="border", align_corners=False)


def resampled(images: Tensor, crops: Tensor, flipped: Tensor, size: int) -> Tensor:
    """Crops of images brought to a size with antialiased bilinear weights, as Pillow's.

    An output pixel is Σ_j w_j x_j along each axis, w_j ∝ max(0, 1 − |j + ½ − c| / s) within the
    crop, with c its place in it and s = max(1, length / size).

    Args:
        images: shape [n, c, h, w].
        crops: left, top, width and height of each, shape [n, 4], or [1, 4] of all.
        flipped: which are mirrored, shape [n] or [1].
        size: height and width of what is returned.
    """
    height, width = images.shape[2:]
    across = _triangles(crops[:, 0], crops[:, 2], width, size)
    across = torch.where(flipped[:, None, None], across.flip(1), across).to(images)
    down = _triangles(crops[:, 1], crops[:, 3], height, size).to(images)
    return down[:, None] @ images @ across[:, None].mT


def _triangles(start: Tensor, length: Tensor, pixels: int, size: int) -> Tensor:
    """Weights of each pixel along an axis for each that is put out, shape [n, size, pixels]."""
    scale = (length / size).double()
    centres = start[:, None] + (torch.arange(size) + 0.5) * scale[:, None]
    places = torch.arange(pixels) + 0.5
    distance = (places - centres[:, :, None]).abs() / scale.clamp_min(1)[:, None, None]
    first, end = start[:, None, None], (start + length)[:, None, None]
    weights = (1 - distance).clamp_min(0) * ((places > first) & (places < end))
    return weights / weights.sum(2, keepdim=True)


def _positions(start: Tensor, length: Tensor, pixels: int) -> Tensor:
    """Where along an axis each output pixel looks, in [−1, 1], shape [n, pixels]."""
    centres = (torch.arange(pixels) + 0.5) * (length / pixels)[:, None] - 0.5
    # Not beyond the crop's outermost pixels, so that nothing outside the crop is mixed in.
    inside = torch.minimum(centres.clamp_min(0), length[:, None] - 1)
    return (2 * (start[:, None] + inside) + 1) / pixels - 1


def _rows(chosen: Tensor, images: Tensor) -> Tensor:
    return chosen.nonzero()[:, 0].to(images.device)


def _mixed(images: Tensor, others: Tensor, factors: Tensor) -> Tensor:
    factors = factors[:, None, None, None]
    return images.mul_(factors).add_(others.mul_(1 - factors)).clamp_(0, 1)


def _normalised(images: Tensor) -> Tensor:
    mean, std = (
        torch.tensor(values, device=images.device)[:, None, None] for values in (MEAN, STD)
    )
    return images.sub_(mean).div_(std)


def _files(path: Path) -> Iterator[Path]:
    """The path itself, or the image files below it."""
    if not path.exists():
        raise DataError(f"{path} does not exist; give an image file, or a folder of them.")
    if not path.is_dir():
        yield path
        return
    found = [folder / name for folder, _, names in visible(path) for name in names]
    images = [file for file in found if is_image(file)]
    if not images:
        raise DataError(f"{path} holds no image file; give an image file, or a folder of them.")
    yield from images
