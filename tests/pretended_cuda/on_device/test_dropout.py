"""GSNR-guided dropout on the device."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import domaingrad as dg
from tests.pretended_cuda.table import WithinTable

from .batches import Mixed, counts_of, mixed

RATIO = 0.25

Select = Literal["low-gsnr", "random"]


def highest(batch: Mixed, ratio: float) -> dict[str, np.ndarray]:
    """Where round(p·J) components of the highest (E_s g)² / E_s g² are, from a pass a sample."""
    named = {
        name: p
        for name, p in batch.model.named_parameters()
        if p.ndim > 1  # no biases or norms
    }
    rows = [
        torch.autograd.grad(F.cross_entropy(batch.model(x[None]), y[None]), list(named.values()))
        for x, y in zip(batch.x, batch.y, strict=True)
    ]
    found = {}
    for name, own in zip(named, zip(*rows, strict=True), strict=True):
        g = np.stack([gradient.numpy().ravel() for gradient in own])
        square = (g**2).mean(0)
        rank = np.divide(g.mean(0) ** 2, square, out=np.zeros_like(square), where=square > 0)
        dropped = np.zeros(rank.size, dtype=bool)
        dropped[np.argsort(-rank, kind="stable")[: round(ratio * rank.size)]] = True
        found[name] = dropped.reshape(named[name].shape)
    return found


def test_the_components_of_the_highest_gsnr_are_dropped() -> None:
    host = mixed("MLP", dtype=torch.float64)
    device = host.to("cuda")
    dropout = dg.GSNRDropout(device.model, ratio=RATIO)
    dropout.hold(torch.optim.SGD(device.model.parameters(), 0.1))
    dropout.update(device.x, device.losses)
    for name, dropped in highest(host, RATIO).items():
        assert dropout.masks[name].device.type == "cuda"
        np.testing.assert_array_equal(~dropout.masks[name].cpu().numpy(), dropped)


@pytest.mark.parametrize("network", ["MLP", "CNN", "ViT"])
@pytest.mark.parametrize("ratio", [RATIO, "learned"])
def test_a_step_of_training(
    network: str, ratio: float | Literal["learned"], within_table: WithinTable
) -> None:
    batch = mixed(network, each=6).to("cuda")
    dropout = dg.GSNRDropout(batch.model, ratio)
    optimizer = dropout.hold(torch.optim.SGD(batch.model.parameters(), 1e-3, momentum=0.9))

    def step() -> None:
        optimizer.zero_grad()
        dropout.update(batch.x, batch.losses, batch.domain)
        F.cross_entropy(batch.model(batch.x), batch.y).backward()
        optimizer.step()

    counts = counts_of(step)
    assert all(0.0 < share < 1.0 for share in dropout.ratios.values())
    within_table(f"{network}: GSNR dropout, ratio {ratio}", counts)


@pytest.mark.parametrize("select", ["low-gsnr", "random"])
def test_other_choices_are_those_of_the_host(select: Select) -> None:
    found = []
    for device in ("cpu", "cuda"):
        batch = mixed("MLP").to(device)
        dropout = dg.GSNRDropout(
            batch.model, RATIO, select=select, generator=torch.Generator().manual_seed(2)
        )
        dropout.hold(torch.optim.SGD(batch.model.parameters(), 0.1))
        dropout.update(batch.x, batch.losses)
        found.append({name: mask.cpu() for name, mask in dropout.masks.items()})
    on_host, on_device = found
    assert all(torch.equal(mask, on_device[name]) for name, mask in on_host.items())
