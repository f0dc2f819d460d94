"""Dropout in several processes drops what one process with all samples would."""

import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import domaingrad as dg
from domaingrad.engine import AgreementError
from tests.engine.distributed.processes import in_processes

STEPS = 3
CASES = {
    "fixed": {"ratio": 0.3},
    "learned": {},
    "learned, masked gradients": {"mask": "gradients"},
    "learned, over domains": {"over": "domains", "scope": "model"},
    "random": {"ratio": 0.3, "select": "random"},
}


def batches():
    generator = torch.Generator().manual_seed(7)
    for _ in range(STEPS):
        x = torch.randn(18, 4, generator=generator, dtype=torch.float64)
        yield x, torch.randint(3, (18,), generator=generator), torch.arange(18) % 3


def losses_of(y):
    return lambda outputs: F.cross_entropy(outputs, y, reduction="none")


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def train(rank, world, options, wrapped):
    """Domains 0 and 1 on rank 0 and domain 2 on rank 1; alone, all of them."""
    plain = network()
    model = DistributedDataParallel(plain) if world > 1 and wrapped else plain
    dropout = dg.GSNRDropout(model, **options)
    optimizer = dropout.hold(torch.optim.SGD(plain.parameters(), 0.1))
    ranks = torch.tensor([0, 0, 1 % world])
    for batch in batches():
        x, y, domain = (tensor[ranks[batch[2]] == rank] for tensor in batch)
        optimizer.zero_grad()
        dropout.update(x, losses_of(y), domain)
        # DistributedDataParallel takes the mean over processes.
        (F.cross_entropy(model(x), y, reduction="sum") * world / 18).backward()
        if world > 1 and not wrapped:
            for parameter in plain.parameters():
                dist.all_reduce(parameter.grad)
                parameter.grad /= world
        optimizer.step()
    masks = {name: mask.clone() for name, mask in dropout.masks.items()}
    return masks, dropout.ratios, plain.state_dict()


def trainings(rank, world):
    warnings.simplefilter("error")
    found = {name: train(rank, world, options, True) for name, options in CASES.items()}
    found["not wrapped"] = train(rank, world, CASES["learned"], False)
    errors = {}
    for name, options in (
        ("seeds", {"generator": torch.Generator().manual_seed(rank)}),
        ("split domains", {"over": "domains", "ratio": 0.2}),
    ):
        dropout = dg.GSNRDropout(network(), **options)
        dropout.hold(torch.optim.SGD(dropout.model.parameters(), 0.1))
        x, y, domain = next(batches())
        try:
            dropout.update(x, losses_of(y), domain)
        except (AgreementError, ValueError) as error:
            errors[name] = str(error)
    alone = dg.GSNRDropout(network(), 0.2, local=True)
    alone.hold(torch.optim.SGD(alone.model.parameters(), 0.1))
    if rank == 0:  # a collective call would wait for ever
        x, y, _ = next(batches())
        alone.update(x, losses_of(y))
    return found, errors


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return in_processes(trainings, 2, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("name", [*CASES, "not wrapped"])
def test_two_processes_drop_what_one_does(two, name):
    masks, ratios, weights = train(0, 1, CASES.get(name, CASES["learned"]), True)
    for found, _ in two:
        for kind, expected in (("masks", masks), ("ratios", ratios), ("weights", weights)):
            got = dict(zip(("masks", "ratios", "weights"), found[name], strict=True))[kind]
            for key, value in expected.items():
                torch.testing.assert_close(got[key], value, msg=lambda m, k=kind: f"{k}: {m}")


def test_what_differs_is_told_on_every_process(two):
    for _, errors in two:
        assert "state of the generator: " in errors["seeds"]
        assert "on rank 0, " in errors["seeds"]
        assert "need all samples of a domain on one process" in errors["split domains"]
