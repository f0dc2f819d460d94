"""Steps of the methods of the literature on the device: those of the CPU, and hardly a wait."""

import pytest
import torch

from domaingrad.bench.methods import LITERATURE, PUBLISHED
from tests.bench.methods.harness import batches, kind_of, learner, network, soon
from tests.pretended_cuda.counting import counted

METHODS = {each.info.name: each for each in (*LITERATURE, *PUBLISHED)}
WAITS = {
    # Drawn on the host, where the run's generator is, and copied.
    "causirl-coral": 1,
    "causirl-mmd": 1,
    "sagnet": 4,
    "selfreg": 2,
    "selfreg-published": 2,
    "urm": 1,
    # K × K products to the host, K weights back.
    "pogm": 2,
    # The engine's, of a batch whose domains lie on the device.
    "q-mean": 3,
    "q-mean-samples": 1,
}
"""The most that a step may wait for the device; 0 for the others."""


class Training:
    """A learner on a device with batches there."""

    def __init__(self, method, device):
        self.device, self.kind = device, kind_of(method)
        net = network(kind=self.kind).to(device)
        self.made, self.optimizers = learner(soon(method, at=1), net=net)

    def step(self):
        given = {
            name: (x.to(self.device), y.to(self.device))
            for name, (x, y) in batches(self.made.step, kind=self.kind).items()
        }
        with counted() as counts:
            self.made.update(given)
        self.optimizers.advance(self.made.optimizers())
        self.made.step += 1
        return counts


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.filterwarnings("ignore::domaingrad.SinglePassWarning")
def test_steps_are_those_of_the_cpu_and_wait_for_nothing(name):
    here, there = (Training(METHODS[name], device) for device in ("cpu", "cuda"))
    for _ in range(5):  # the first captures and verifies; the second and fourth are audited
        here.step()
        counts = there.step()
    assert counts.synchronizations <= WAITS.get(name, 0), counts
    assert counts.launches > 0
    if name == "mtl-published":  # its noise is drawn by each device's own generator
        return
    for a, b in zip(here.made.network.parameters(), there.made.network.parameters(), strict=True):
        assert b.device.type == "cuda"
        torch.testing.assert_close(a, b.cpu(), rtol=1e-4, atol=1e-5)
