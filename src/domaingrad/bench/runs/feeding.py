"""Batches of a run: rows drawn by its generator, their inputs fetched ahead where they are many."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from domaingrad.bench.domains.fetched import FetchedInputs
from domaingrad.bench.protocol import Split, drawn_ahead, drawn_rows

AT_ONCE = 256
"""Steps at most whose rows are drawn at once."""
Rows = Mapping[str, Tensor]
"""Of each domain, those of one step."""


class Feed:
    """The stored samples of each step, the same whether and by how many workers they are fetched.

    A PyTorch DataLoader asks for rows some steps ahead, and its workers fetch their inputs; what is
    saved is the state of the generator before the first step that has not been taken.

    Args:
        splits: the sources.
        size: samples of each in a step.
        generator: from which rows are drawn.
        shares: which of them this process has.
        workers: processes that fetch inputs; 0 for this one, when they are needed. Data in memory
            need none.
    """

    def __init__(
        self,
        splits: Mapping[str, Split],
        size: int,
        generator: Generator,
        shares: Mapping[str, slice],
        workers: int = 0,
    ) -> None:
        self._splits, self._size = splits, size
        self._generator, self._shares = generator, shares
        inputs = {name: split.data.tensors[0] for name, split in splits.items()}
        self._inputs = _Inputs(inputs)
        fetched = any(isinstance(each, FetchedInputs) for each in inputs.values())
        self._workers = workers if fetched else 0
        self._ahead: deque[tuple[Tensor, Rows]] = deque()
        """Generator's states before steps that have been drawn and not taken, and their rows."""
        self._loaded: Iterator[Mapping[str, Tensor]] | None = None
        self._rows: Iterator[Tensor] = iter(())

    def take(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Stored inputs and labels of the next step."""
        if not self._workers:
            rows = self._draw()
            inputs: Mapping[str, Tensor] = self._inputs[rows]
        else:
            if self._loaded is None:
                # A generator of its own, or the loader would draw from the model's.
                self._loaded = iter(
                    DataLoader(
                        self._inputs,
                        batch_size=None,
                        sampler=_Drawn(self),
                        num_workers=self._workers,
                        generator=Generator(),
                    )
                )
            inputs = next(self._loaded)
            _, rows = self._ahead.popleft()
        return {
            name: (stored, self._splits[name].data.tensors[1][rows[name]])
            for name, stored in inputs.items()
        }

    def next_rows(self, within: int) -> Tensor:
        """Rows of the next step, [K, size], which counts as taken; of one process.

        Args:
            within: steps that may be drawn at once, as :meth:`get_state` is not asked for before.
        """
        rows = next(self._rows, None)
        if rows is None:
            splits = list(self._splits.values())
            steps = min(within, AT_ONCE)
            self._rows = iter(drawn_ahead(splits, self._size, steps, self._generator).unbind())
            rows = next(self._rows)
        return rows

    def get_state(self) -> Tensor:
        """As of the generator, had nothing been drawn ahead."""
        return self._ahead[0][0] if self._ahead else self._generator.get_state()

    def set_state(self, state: Tensor) -> None:
        """Go on from what :meth:`get_state` gave."""
        self._ahead.clear()
        self._loaded = None
        self._generator.set_state(state)

    def draw_ahead(self) -> Rows:
        """Rows of the next step that nobody has asked for yet."""
        state = self._generator.get_state()
        rows = self._draw()
        self._ahead.append((state, rows))
        return rows

    def _draw(self) -> Rows:
        return {
            name: drawn_rows(split, self._size, self._generator)[self._shares[name]]
            for name, split in self._splits.items()
        }


class WholeFeed:
    """All samples of the training splits in every step, which draws nothing.

    Args:
        splits: the sources.
    """

    def __init__(self, splits: Mapping[str, Split]) -> None:
        self._splits = splits

    def take(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Stored inputs and labels."""
        return {
            name: (split.data.tensors[0][split.train], split.data.tensors[1][split.train])
            for name, split in self._splits.items()
        }


class _Inputs(Dataset[Any]):
    """Inputs by domain; an item is those of one step."""

    def __init__(self, inputs: Mapping[str, Tensor]) -> None:
        self._inputs = inputs

    def __getitem__(self, rows: Rows) -> dict[str, Tensor]:
        return {name: self._inputs[name][each] for name, each in rows.items()}


class _Drawn(Sampler[Any]):
    """Rows of step after step."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def __iter__(self) -> Iterator[Rows]:
        while True:
            yield self._feed.draw_ahead()
