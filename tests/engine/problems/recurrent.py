"""Layers that run along time, with time before and after the samples."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .problem import CLASSES, N, normal, problem


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 5, batch_first=True)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class TimeFirst(nn.Module):
    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(layer.hidden_size, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x.transpose(0, 1))[0].mean(0))


class BothDirections(nn.Module):
    """Two layers, and the last hidden states [layers * 2, N, C] as features."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 4, num_layers=2, bidirectional=True, proj_size=2, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        _, (hidden, _) = self.lstm(x)
        return self.head(hidden.transpose(0, 1).flatten(1))


class CellByCell(nn.Module):
    """The learned first state is shared by all samples."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(6, 5)
        self.first = nn.Parameter(torch.randn(1, 5))
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = memory = self.first.expand(len(x), -1)
        for step in x.unbind(1):
            hidden, memory = self.cell(step, (hidden, memory))
        return self.head(hidden)


class GRUCells(nn.Module):
    """A cell without bias, whose weights a plain layer shares."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(6, 6, bias=False)
        self.mixing = nn.RNNCell(6, 6)
        self.mixing.weight_ih = self.mixing.weight_hh
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = x[:, 0]
        for step in x.unbind(1):
            hidden = self.mixing(step, self.cell(step, hidden))
        return self.head(hidden)


SEQUENCE = normal(4, 6)

PROBLEMS = {
    "recurrent": problem(Recurrent, SEQUENCE),
    "recurrent, time first": problem(lambda: TimeFirst(nn.GRU(6, 5)), SEQUENCE),
    "recurrent, as long as the batch, time first": problem(
        lambda: TimeFirst(nn.RNN(6, 5)), normal(N, 6)
    ),
    "recurrent in both directions": problem(BothDirections, SEQUENCE),
    "cell by cell": problem(CellByCell, SEQUENCE),
    "cells with shared weights": problem(GRUCells, SEQUENCE),
}
