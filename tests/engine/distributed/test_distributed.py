"""Several processes give the update of one."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import domaingrad as dg
from domaingrad.bench.models import mlp

from .processes import in_processes

STEPS = 3
RULES = {
    "mean": dg.Mean,
    "and": lambda: dg.ANDMask(tau=0.7),
    "and, geometric": lambda: dg.ANDMask(average="geometric", rescale=False),
    "sand": lambda: dg.SANDMask(tau=0.3, k=2.0),
    "agr-sum": dg.AgrSum,
    "agr-rand": lambda: dg.AgrRand(torch.Generator().manual_seed(3)),
    "pcgrad": lambda: dg.PCGrad(torch.Generator().manual_seed(3)),
}


class Attention(nn.Module):
    """A small transformer with a class token that no sample has alone."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x.view(len(x), 4, 4))], 1)
        return self.head(self.layers(x)[:, 0])


def build(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "mlp":
        return mlp((16,), 3, (32, 16))
    if kind == "transformer":
        return Attention()
    norm = nn.BatchNorm2d(6) if kind == "cnn with batch norm" else nn.GroupNorm(2, 6)
    return nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 6, 3, padding=1), norm, nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 3),
    )  # fmt: skip


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Five domains of uneven size in a step; the last one is absent in every second."""
    generator = torch.Generator().manual_seed(step)
    domain = torch.tensor([0] * 5 + [1] * 3 + [2] * 6 + [3] * 4 + [4] * (2 * (step % 2)))
    shift = torch.randn(5, 16, generator=torch.Generator().manual_seed(99))
    x = torch.randn(len(domain), 16, generator=generator) + shift[domain]
    return x, torch.randint(3, (len(domain),), generator=generator), domain


def trained(agree, model, own, batches=batch) -> list[torch.Tensor]:
    """Parameters after some steps on the samples that ``own`` picks."""
    optimizer = torch.optim.SGD(model.parameters(), 0.3, momentum=0.9)
    for step in range(STEPS):
        x, y, domain = batches(step)
        rows = own(domain)
        if rows.any():
            losses = F.cross_entropy(agree(x[rows], domain[rows]), y[rows], reduction="none")
            agree.backward(losses)
        else:
            agree.idle()
        optimizer.step()
        optimizer.zero_grad()
    return [parameter.detach().clone() for parameter in model.parameters()]


def one_process(kind: str, rule: str, **options) -> list[torch.Tensor]:
    model = build(kind)
    agree = dg.GradientAgreement(model, RULES[rule](), **options)
    return trained(agree, model, lambda domain: torch.ones_like(domain, dtype=torch.bool))


PLACES = {
    "a domain is whole on a rank": lambda rank, world: lambda domain: domain % world == rank,
    "every domain on every rank": lambda rank, world: (
        lambda domain: torch.arange(len(domain)) % world == rank
    ),
    "all domains on the last rank": lambda rank, world: (
        lambda domain: torch.full_like(domain, rank == world - 1, dtype=torch.bool)
    ),
}


def mixed(rank: int, world: int, cases):
    found = {}
    for kind, rule, place, options in cases:
        model = build(kind)
        wrapped = DistributedDataParallel(model)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            agree = dg.GradientAgreement(wrapped, RULES[rule](), **options)
            own = PLACES[place](rank, world)
            found[kind, rule, place, tuple(options)] = trained(agree, model, own)
    return found


def assert_equal(found, expected, case, tolerance=1e-6):
    """Relative error of the whole vector of parameters."""
    found, expected = (torch.cat([p.flatten() for p in each]) for each in (found, expected))
    error = ((found - expected).norm() / expected.norm()).item()
    assert error <= tolerance, case


@pytest.mark.parametrize("world", [2, 3])
def test_mixed_batches_on_several_processes_give_the_update_of_one(world, tmp_path):
    whole, every, last = PLACES
    cases = [("mlp", rule, place, {}) for rule in RULES for place in PLACES]
    cases += [(kind, rule, whole, {}) for kind in KINDS for rule in ("and", "sand", "pcgrad")]
    cases += [("cnn", "and", every, {"engine": "streaming"})]
    cases += [("mlp", "sand", every, {"weights": {1: 2.0, 4: 0.5}})]
    cases += [("transformer", "agr-rand", last, {})]
    results = in_processes(mixed, world, tmp_path, cases)
    for kind, rule, place, options in cases:
        alone = {name: value for name, value in options.items() if name != "engine"}
        expected = one_process(kind, rule, **alone)
        for result in results:
            assert_equal(
                result[kind, rule, place, tuple(options)], expected, (kind, rule, place, options)
            )


KINDS = ("cnn", "cnn with batch norm", "transformer")


def hooked(rank: int, world: int, cases):
    found = {}
    for kind, rule in cases:
        model = build(kind)
        # Buckets of some parameters each, so that there are several.
        wrapped = DistributedDataParallel(model, bucket_cap_mb=0.002, broadcast_buffers=False)
        agreement = dg.DDPAgreement(wrapped, RULES[rule](), domain=rank % 2)
        optimizer = torch.optim.SGD(model.parameters(), 0.3, momentum=0.9)
        for step in range(STEPS):
            x, y = of_rank(rank, world, step)
            agreement.samples = len(y)
            F.cross_entropy(wrapped(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
        found[kind, rule] = [parameter.detach().clone() for parameter in model.parameters()]
    return found


def of_rank(rank: int, world: int, step: int):
    """Two domains; with three processes two of them share the first, unevenly."""
    x, y, domain = batch(step)
    rows = (domain == rank % 2).nonzero().flatten()
    sharing = [r for r in range(world) if r % 2 == rank % 2]
    if len(sharing) > 1:
        rows = rows[:2] if rank == sharing[0] else rows[2:]
    return x[rows], y[rows]


def two_domains(step: int):
    x, y, domain = batch(step)
    rows = domain < 2
    return x[rows], y[rows], domain[rows]


@pytest.mark.parametrize("world", [2, 3])
def test_the_hook_gives_the_update_of_one_process(world, tmp_path):
    cases = [("mlp", rule) for rule in RULES]
    cases += [("cnn", "and"), ("transformer", "sand")]
    if world == 2:  # a domain on two ranks has two batches of statistics
        cases += [("cnn with batch norm", "and")]
    results = in_processes(hooked, world, tmp_path, cases)
    for kind, rule in cases:
        model = build(kind)
        agree = dg.GradientAgreement(model, RULES[rule]())
        expected = trained(
            agree, model, lambda domain: torch.ones_like(domain, dtype=torch.bool), two_domains
        )
        for result in results:
            assert_equal(result[kind, rule], expected, (kind, rule))
