"""Looking at the conflict of the domains on the device."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from domaingrad.inspect import ConflictWatch
from tests.pretended_cuda.table import WithinTable

from .batches import counts_of, mixed


def test_cosines_are_those_of_separate_passes_on_the_host() -> None:
    host = mixed("MLP", dtype=torch.float64)
    device = host.to("cuda")
    watch = ConflictWatch(device.model, every=1)
    watch(device.x, device.losses, device.domain)
    parameters = list(host.model.parameters())
    rows = []
    for x, y in host.parts.values():
        gradients = torch.autograd.grad(F.cross_entropy(host.model(x), y), parameters)
        rows.append(np.concatenate([gradient.numpy().ravel() for gradient in gradients]))
    G = np.stack(rows)
    lengths = np.linalg.norm(G, axis=1)
    expected = (G @ G.T) / np.outer(lengths, lengths)
    np.testing.assert_allclose(watch.found[1].cosines.numpy(), expected, rtol=1e-9)
    agreeing = np.abs(np.sign(G).sum(0)) == len(G)
    assert watch.found[1].agreement == pytest.approx(agreeing.mean())


@pytest.mark.parametrize("network", ["MLP", "CNN", "ViT"])
def test_a_look(network: str, within_table: WithinTable) -> None:
    batch = mixed(network).to("cuda")
    watch = ConflictWatch(batch.model, every=1)
    look = counts_of(lambda: watch(batch.x, batch.losses, batch.domain))
    within_table(f"{network}: a look of ConflictWatch", look)


def test_batches_that_are_not_looked_at_cost_nothing() -> None:
    batch = mixed("MLP").to("cuda")
    watch = ConflictWatch(batch.model, every=50)
    counts = counts_of(lambda: watch(batch.x, batch.losses, batch.domain))
    assert counts.launches == counts.synchronizations == 0
