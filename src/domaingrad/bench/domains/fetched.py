"""Inputs that are larger than memory: fetched when they are asked for."""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from .data import DataError
from .decoding import decode_each

Fetch = Literal["once", "as-needed"]
"""Whether inputs are read once and kept, or each time they are asked for."""


class FetchedInputs(ABC):
    """Stands where a tensor of all stored inputs would, [n, *stored]."""

    shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.shape[0]

    def size(self, dim: int) -> int:
        """As of a tensor."""
        return self.shape[dim]

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Inputs of some rows, [m, *stored]."""
        if not len(rows):
            return self.fetch([0])[:0]
        return self.fetch(rows.tolist())

    @abstractmethod
    def fetch(self, rows: Sequence[int]) -> Tensor:
        """Inputs of some rows, one at least."""


class StandIns(FetchedInputs):
    """One image of random bytes in the place of each that is not decoded.

    Args:
        shape: of all of them, [n, channels, height, width].
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        generator = torch.Generator().manual_seed(0)
        self._image = torch.randint(0, 256, shape[1:], dtype=torch.uint8, generator=generator)

    def part(self, rows: slice) -> StandIns:
        """Some that lie side by side."""
        return StandIns((len(range(*rows.indices(len(self)))), *self.shape[1:]))

    def fetch(self, rows: Sequence[int]) -> Tensor:
        """As many as are asked for."""
        return self._image.repeat(len(rows), 1, 1, 1)


class FetchedSamples(TensorDataset):
    """Samples whose inputs are fetched; their labels are in memory.

    Args:
        inputs: of the samples.
        labels: shape [n].
    """

    def __init__(self, inputs: FetchedInputs, labels: Tensor) -> None:
        self.tensors = (cast(Tensor, inputs), labels)


class ImageFiles(FetchedInputs):
    """Images that are decoded each time, in as many threads as CPUs.

    Args:
        files: in order.
        size: height and width.
    """

    def __init__(self, files: Sequence[Path], size: int) -> None:
        self.files, self._side = tuple(files), size
        self.shape = (len(self.files), 3, size, size)

    def part(self, rows: slice) -> ImageFiles:
        """Some that lie side by side."""
        return ImageFiles(self.files[rows], self._side)

    def fetch(self, rows: Sequence[int]) -> Tensor:
        """Decode some.

        Raises:
            DataError: one cannot be decoded.
        """
        found = []
        for outcome in decode_each([self.files[row] for row in rows], self._side):
            if isinstance(outcome, DataError):
                raise outcome
            found.append(outcome)
        return torch.stack(found)


class CachedImages(FetchedInputs):
    """Images in a file of pixels that is read row by row.

    Read and not mapped, so that a file that is cut off or changed meanwhile is told, where a map
    would end the process.

    Args:
        path: the file.
        first: number of the first image.
        count: how many.
        size: height and width.
        stamp: size and time of change of the file, as it was when it was opened.
    """

    def __init__(
        self, path: Path, first: int, count: int, size: int, stamp: tuple[int, int]
    ) -> None:
        self._path, self._first, self._stamp = path, first, stamp
        self.shape = (count, 3, size, size)

    def part(self, rows: slice) -> CachedImages:
        """Some that lie side by side."""
        begin, end, _ = rows.indices(len(self))
        first = self._first + begin
        return CachedImages(self._path, first, end - begin, self.shape[-1], self._stamp)

    def fetch(self, rows: Sequence[int]) -> Tensor:
        """Read some.

        Raises:
            DataError: the file is not what it was.
        """
        found = np.empty((len(rows), *self.shape[1:]), np.uint8)
        try:
            with self._path.open("rb", buffering=0) as file:
                if stamp_of(file.fileno()) != self._stamp:
                    raise OSError(errno.EIO, "it has been changed")
                for place, row in enumerate(rows):
                    file.seek((self._first + row) * found[place].nbytes)
                    if file.readinto(found[place].reshape(-1)) != found[place].nbytes:
                        raise OSError(errno.EIO, "it has been cut off")
        except OSError as error:
            raise DataError(
                f"the decoded images in {self._path} cannot be read any more "
                f"({(error.strerror or str(error)).lower()}); give the same command again, which "
                f"decodes them anew and goes on from the last checkpoint."
            ) from error
        return torch.from_numpy(found)


def stamp_of(file: int | Path) -> tuple[int, int]:
    """Size and time of change of a file."""
    status = os.stat(file)
    return status.st_size, status.st_mtime_ns


class MapStyle(FetchedInputs):
    """Inputs of anyone's map-style data set of samples (tensor, label).

    Args:
        data: the data set.
        shape: of one input.
    """

    def __init__(self, data: Dataset[Any], shape: tuple[int, ...]) -> None:
        self._data = data
        self.shape = (len(data), *shape)  # type: ignore[arg-type]

    def fetch(self, rows: Sequence[int]) -> Tensor:
        """Ask for some, one by one."""
        inputs = torch.stack([self._data[row][0] for row in rows])
        return inputs.float() if inputs.is_floating_point() else inputs
