"""Inputs that are larger than memory: fetched when they are asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

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
