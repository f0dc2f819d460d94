"""Several processes give the update of one, whatever lies where."""

import os
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from filelock import FileLock
from torch import nn
from torch.distributed.checkpoint import load, save
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import domaingrad as dg
from domaingrad.bench.models import mlp
from domaingrad.engine.blocks import block
from domaingrad.engine.distributed.exchange import Bucket, Exchange
from domaingrad.engine.distributed.placement import Placement
from domaingrad.engine.loops import compiler_found

from .processes import in_processes, results_in

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
    """A small transformer with a class token that no sample has alone.

    Without biases: those of the keys have no gradient but rounding, whose signs are chance, and
    with them the share that a mask keeps of their tensor.
    """

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, bias=False)
        self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x.view(len(x), 4, 4))], 1)
        return self.head(self.layers(x)[:, 0])


class PartlyUsed(nn.Module):
    """With a layer, the first, that no domain uses."""

    def __init__(self):
        super().__init__()
        self.idle, self.used = nn.Linear(16, 5), nn.Linear(16, 3)

    def forward(self, x):
        return self.used(x)


def build(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "partly used":
        return PartlyUsed()
    if kind == "mlp":
        return mlp((16,), 3, (32, 16))
    if kind == "transformer":
        return Attention()
    norm = nn.BatchNorm2d(6) if kind == "cnn with batch norm" else nn.GroupNorm(2, 6)
    return nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 6, 3, padding=1), norm, nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 3),
    )  # fmt: skip


def batch(step: int):
    """Five domains of uneven size in a step; the last one is absent in every second."""
    generator = torch.Generator().manual_seed(step)
    domain = torch.tensor([0] * 5 + [1] * 3 + [2] * 6 + [3] * 4 + [4] * (2 * (step % 2)))
    shift = torch.randn(5, 16, generator=torch.Generator().manual_seed(99))
    x = torch.randn(len(domain), 16, generator=generator) + shift[domain]
    return x, torch.randint(3, (len(domain),), generator=generator), domain


def two_domains(step: int):
    x, y, domain = batch(step)
    rows = domain < 2
    return x[rows], y[rows], domain[rows]


def everything(domain):
    return torch.ones_like(domain, dtype=torch.bool)


def trained(agree, model, own: Callable, batches=batch) -> torch.Tensor:
    """All parameters after some steps on the samples that ``own`` picks."""
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
    return flat(model)


def flat(model) -> torch.Tensor:
    parameters = [p.full_tensor() if isinstance(p, DTensor) else p for p in model.parameters()]
    return torch.cat([parameter.detach().flatten() for parameter in parameters])


def one_process(kind: str, rule: str, batches=batch, **options) -> torch.Tensor:
    model = build(kind)
    agree = dg.GradientAgreement(model, RULES[rule](), **options)
    return trained(agree, model, everything, batches)


PLACES = {
    "a domain is whole on a rank": lambda rank, world, domain: domain % world == rank,
    "every domain on every rank": lambda rank, world, domain: (
        torch.arange(len(domain)) % world == rank
    ),
    "all domains on the last rank": lambda rank, world, domain: torch.full_like(
        domain, rank == world - 1, dtype=torch.bool
    ),
}
WHOLE, EVERY, LAST = PLACES
MIXED = [
    *(("mlp", rule, place, {}) for rule in RULES for place in PLACES),
    *(
        (kind, rule, WHOLE, {})
        for kind in ("cnn", "cnn with batch norm", "transformer")
        for rule in ("and", "sand", "pcgrad")
    ),
    ("cnn", "and", EVERY, {"engine": "streaming"}),
    ("mlp", "sand", EVERY, {"weights": {1: 2.0, 4: 0.5}}),
    ("transformer", "agr-rand", LAST, {}),
    ("partly used", "agr-rand", EVERY, {}),
    ("partly used", "sand", WHOLE, {}),
]
HOOKED = [*(("mlp", rule) for rule in RULES), ("cnn", "and"), ("transformer", "sand")]
SHARDED = [*(("mlp", rule) for rule in RULES), ("cnn", "sand"), ("transformer", "and")]


def mixed(rank, world, kind, rule, place, options):
    model = build(kind)
    agree = dg.GradientAgreement(DistributedDataParallel(model), RULES[rule](), **options)
    return trained(agree, model, lambda domain: PLACES[place](rank, world, domain))


def hooked(rank, world, kind, rule, **options):
    """Two domains; with three processes two of them share the first, unevenly."""
    model = build(kind)
    # Buckets of some parameters each, so that there are several.
    wrapped = DistributedDataParallel(model, bucket_cap_mb=0.002)
    agreement = dg.DDPAgreement(wrapped, RULES[rule](), domain=rank % 2, **options)
    optimizer = torch.optim.SGD(model.parameters(), 0.3, momentum=0.9)
    for step in range(STEPS):
        x, y, domain = batch(step)
        rows = (domain == rank % 2).nonzero().flatten()
        if world == 3 and rank % 2 == 0:
            rows = rows[:2] if rank == 0 else rows[2:]
        agreement.samples = len(rows)
        F.cross_entropy(wrapped(x[rows]), y[rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return flat(model)


def compiled(rank, world, outermost):
    """With a compiled model inside or outside; and how often each parameter's hook was called."""
    model = build("mlp")
    fired = []
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda _: fired.append(1))
    wrapped = (
        torch.compile(DistributedDataParallel(model))
        if outermost
        else DistributedDataParallel(torch.compile(model))
    )
    agree = dg.GradientAgreement(wrapped, dg.ANDMask(tau=0.7))
    found = trained(agree, model, lambda domain: domain % world == rank)
    assert "one pass" in agree.explain()
    assert "unused" not in agree.explain()
    return found, len(fired) / len(list(model.parameters()))


def removed(rank, world):
    """The gradient after the hook was used and taken away, and that of plain DDP."""
    found = []
    for hook in (True, False):
        wrapped = DistributedDataParallel(build("mlp"))
        x, y, _ = batch(rank)
        if hook:
            agreement = dg.DDPAgreement(wrapped, dg.ANDMask(), domain=rank)
            F.cross_entropy(wrapped(x), y).backward()
            assert agreement.state_dict() == {"rule": {}}
            agreement.remove()
            wrapped.zero_grad()
        F.cross_entropy(wrapped(x), y).backward()
        found.append(torch.cat([p.grad.flatten() for p in wrapped.parameters()]))
    return found


def even(step: int):
    """Four samples of each of three domains, so that each of two processes has half of each."""
    x, y, domain = batch(step)
    rows = torch.cat([(domain == e).nonzero().flatten()[:4] for e in (0, 2, 3)])
    return x[rows], y[rows], domain[rows]


def sharded(rank, world, kind, rule):
    model, optimizer, agree = in_shards(world, kind, rule)
    sharded_steps(rank, world, model, optimizer, agree, range(STEPS))
    return flat(model)


def sharded_mixed(rank, world, kind, rule):
    """Each process has one or three of every domain's samples; sharded after the agreement."""
    model = build(kind)
    agree = dg.GradientAgreement(model, RULES[rule](), local=True)
    optimizer = spread_out(model, world)
    for step in range(STEPS):
        x, y, domain = even(step)
        rows = [(domain == e).nonzero().flatten() for e in domain.unique()]
        own = torch.cat([r[:3] if rank == 0 else r[3:] for r in rows]).flip(0)
        agree.backward(F.cross_entropy(agree(x[own], domain[own]), y[own], reduction="none"))
        optimizer.step()
        optimizer.zero_grad()
    return flat(model)


def in_shards(world, kind, rule):
    model = build(kind)
    optimizer = spread_out(model, world)
    return model, optimizer, dg.GradientAgreement(model, RULES[rule]())


def spread_out(model, world):
    mesh = init_device_mesh("cpu", (world,))
    for layer in model.children():
        if any(parameter.numel() for parameter in layer.parameters()):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return torch.optim.SGD(model.parameters(), 0.3, momentum=0.9)


def sharded_steps(rank, world, model, optimizer, agree, steps):
    for step in steps:
        x, y, domain = even(step)
        for e in domain.unique():
            rows = (domain == e).nonzero().flatten()[rank::world]
            with agree.domain(e):
                F.cross_entropy(model(x[rows]), y[rows]).backward()
        agree.combine()
        optimizer.step()
        optimizer.zero_grad()


def saved_and_loaded(rank, world, directory):
    """Sharded, with a checkpoint after the first step, from which new objects go on."""
    model, optimizer, agree = in_shards(world, "mlp", "agr-rand")
    sharded_steps(rank, world, model, optimizer, agree, range(1))
    save(state_of(model, optimizer, agree), checkpoint_id=directory)

    model, optimizer, agree = in_shards(world, "mlp", "agr-rand")
    sharded_steps(rank, world, model, optimizer, agree, range(5, 7))  # to be forgotten
    state = state_of(model, optimizer, agree)
    load(state, checkpoint_id=directory)
    set_state_dict(
        model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
    )
    agree.load_state_dict(state["agreement"])
    sharded_steps(rank, world, model, optimizer, agree, range(1, STEPS))
    return flat(model)


def state_of(model, optimizer, agree):
    of_model, of_optimizer = get_state_dict(model, optimizer)
    return {"model": of_model, "optimizer": of_optimizer, "agreement": agree.state_dict()}


def running_statistics(rank, world):
    """Of batch norm, where one process has no samples."""
    model = build("cnn with batch norm")
    agree = dg.GradientAgreement(DistributedDataParallel(model), dg.ANDMask())
    trained(agree, model, lambda domain: PLACES[LAST](rank, world, domain))
    return model[2].running_mean


def message_of(function) -> str:
    try:
        function()
    except (dg.AgreementError, ValueError, TypeError) as error:
        return str(error)
    return "nothing was refused"


def step_of(agree, x, y, domain):
    agree.backward(F.cross_entropy(agree(x, domain), y, reduction="none"))


def refusals(rank, world) -> dict[str, str]:
    """What is refused, and how, on this process."""
    x, y, domain = batch(0)
    own = domain % world == rank
    found = {}

    def mixed_with(rule):
        agree = dg.GradientAgreement(DistributedDataParallel(build("mlp")), rule)
        return message_of(lambda: step_of(agree, x[own], y[own], domain[own]))

    found["rule"] = mixed_with(dg.ANDMask(tau=1 - 0.5 * rank))
    found["seed"] = mixed_with(dg.AgrRand(torch.Generator().manual_seed(rank)))
    found["hook"] = message_of(
        lambda: dg.DDPAgreement(
            DistributedDataParallel(build("mlp")), dg.ANDMask(tau=1 - 0.5 * rank), domain=rank
        )
    )
    found["plain"] = message_of(lambda: dg.GradientAgreement(build("mlp"), dg.Mean()))
    found["not wrapped"] = message_of(lambda: dg.DDPAgreement(build("mlp"), dg.Mean(), domain=0))
    agree = dg.GradientAgreement(DistributedDataParallel(build("mlp")), dg.ANDMask())
    one = (torch.ones_like(domain) * 7)[:4]
    found["one domain"] = message_of(lambda: step_of(agree, x[:4], y[:4], one))
    wrapped = DistributedDataParallel(build("mlp"))
    agree = dg.GradientAgreement(wrapped, dg.Mean())

    def jointly():
        losses = F.cross_entropy(wrapped(x), y, reduction="none")
        for e in (0, 1):
            with agree.domain(e):
                losses[domain == e].mean().backward(retain_graph=True)

    found["joint forward"] = message_of(jointly)
    wrapped = DistributedDataParallel(build("mlp"))
    agree = dg.GradientAgreement(wrapped, dg.Mean())

    def with_domains(agree, names):
        for e in names:
            with agree.domain(e):
                F.cross_entropy(agree.model(x[domain == e]), y[domain == e]).backward()
        agree.combine()

    found["other domains"] = message_of(lambda: with_domains(agree, (rank, rank + 2)))
    weighted = dg.GradientAgreement(
        DistributedDataParallel(build("mlp")), dg.Mean(), weights={0: 1.0 + rank}
    )
    found["weights"] = message_of(lambda: step_of(weighted, x[own], y[own], domain[own]))
    mesh = init_device_mesh("cpu", (world,))
    whole = build("mlp")
    sharded_model = fully_shard(whole, mesh=mesh)
    spread = dg.GradientAgreement(sharded_model, dg.Mean())
    found["sharded"] = message_of(lambda: spread(x[own], domain[own]))
    losses = F.cross_entropy(spread(x, domain), y, reduction="none")
    found["sharded, accumulated"] = message_of(lambda: spread.accumulate(losses))
    order = (0, 1) if rank == 0 else (1, 0)
    found["other order"] = message_of(lambda: with_domains(spread, order))
    unlike = dg.GradientAgreement(sharded_model, dg.ANDMask(tau=1 - 0.5 * rank))
    hooked_model = DistributedDataParallel(build("mlp"))
    dg.DDPAgreement(hooked_model, dg.Mean(), domain=rank)
    both = dg.GradientAgreement(hooked_model, dg.Mean())
    found["hook and mixed"] = message_of(lambda: step_of(both, x[own], y[own], domain[own]))
    found["hook and domains"] = message_of(lambda: with_domains(both, (0, 1)))
    found["rule on shards"] = message_of(lambda: with_domains(unlike, (0, 1)))
    return found


def not_finite(rank, world, way):
    """One process has a gradient that is not finite; what all see of it."""
    model = build("mlp")
    x, y, domain = batch(0)
    if rank == 0:
        x = x.clone()
        x[domain == 0, 0] = torch.inf
    own = domain % world == rank
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        wrapped = DistributedDataParallel(model)
        if way == "mixed":
            step_of(dg.GradientAgreement(wrapped, dg.ANDMask()), x[own], y[own], domain[own])
        else:
            dg.DDPAgreement(wrapped, dg.ANDMask(), domain=rank)
            F.cross_entropy(wrapped(x[own]), y[own]).backward()
    told = [str(w.message) for w in caught if w.category is dg.NonFiniteGradientWarning]
    return all(p.grad.isfinite().all() for p in model.parameters()), told


def traffic(rank, world):
    """Bytes that leave this process in a step, by the sizes given to the collectives."""
    sent = {"all_to_all": 0, "all_gather": 0}
    from domaingrad.engine.distributed import exchange

    plain_all_to_all, plain_all_gather = dist.all_to_all_single, exchange.all_gather

    def counted_all_to_all(out, own, out_sizes, own_sizes, **options):
        sent["all_to_all"] += own.element_size() * sum(own_sizes[:rank] + own_sizes[rank + 1 :])
        return plain_all_to_all(out, own, out_sizes, own_sizes, **options)

    def counted_all_gather(out, own, **options):
        sent["all_gather"] += own.element_size() * own.numel() * (world - 1)
        return plain_all_gather(out, own, **options)

    exchange.dist.all_to_all_single, exchange.all_gather = counted_all_to_all, counted_all_gather
    try:
        found = {}
        for half in (False, True):
            sent.update(all_to_all=0, all_gather=0)
            hooked(rank, world, "mlp", "and", comm_dtype=torch.bfloat16 if half else None)
            found[half] = sum(sent.values()) / STEPS
    finally:
        exchange.dist.all_to_all_single = plain_all_to_all
        exchange.all_gather = plain_all_gather
    return found


def all_of_it(rank, world, directory):
    """Everything that the tests below look at, in one start of the processes."""
    block.SMALL = 20  # So that some parameters are reduced together, and others alone.
    found = {("mixed", *case[:3], *case[3]): mixed(rank, world, *case) for case in MIXED}
    found |= {("hooked", *case): hooked(rank, world, *case) for case in HOOKED}
    found["weighted hook"] = hooked(rank, world, "mlp", "sand", weights={1: 2.0})
    found["removed hook"] = removed(rank, world)
    found["half"] = hooked(rank, world, "mlp", "mean", comm_dtype=torch.bfloat16)
    found["traffic"] = traffic(rank, world)
    if world == 2:
        found["hooked", "cnn with batch norm", "and"] = hooked(
            rank, world, "cnn with batch norm", "and"
        )
        found |= {("sharded", *case): sharded(rank, world, *case) for case in SHARDED}
        found |= {("mixed", *case): sharded_mixed(rank, world, *case) for case in SHARDED}
        found |= {("not finite", way): not_finite(rank, world, way) for way in ("mixed", "hook")}
        if compiler_found(torch.device("cpu")):
            found |= {("compiled", outer): compiled(rank, world, outer) for outer in (False, True)}
        found["saved and loaded"] = saved_and_loaded(rank, world, directory)
        found["running statistics"] = running_statistics(rank, world)
        found["refusals"] = refusals(rank, world)
    return found


THREE = pytest.param(3, marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=[2, THREE], ids="{} processes".format)
def results(request, tmp_path_factory):
    """By rank; of several processes that test, the first makes them for all."""
    world, own = request.param, tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    place = shared / f"{world} processes"
    with FileLock(shared / f"{world}.lock"):
        if not (place / "done").exists():
            in_processes(all_of_it, world, place, str(place / "checkpoint"))
            (place / "done").touch()
    return results_in(place, world)


def assert_equal(results, key, expected, tolerance=1e-6):
    """Relative error of the whole vector of parameters, and the same bits on all processes."""
    for result in results:
        error = (result[key] - expected).norm() / expected.norm()
        assert error.item() <= tolerance, key
        assert torch.equal(result[key], results[0][key]), key


@pytest.mark.parametrize("case", MIXED, ids=str)
def test_mixed_batches_give_the_update_of_one_process(results, case):
    kind, rule, place, options = case
    alone = {name: value for name, value in options.items() if name != "engine"}
    assert_equal(results, ("mixed", kind, rule, place, *options), one_process(kind, rule, **alone))


@pytest.mark.parametrize("case", HOOKED, ids=str)
def test_the_hook_gives_the_update_of_one_process(results, case):
    assert_equal(results, ("hooked", *case), one_process(*case, two_domains))


def test_the_hook_weighs_domains(results):
    expected = one_process("mlp", "sand", two_domains, weights={1: 2.0})
    assert_equal(results, "weighted hook", expected)


def test_without_its_agreement_a_wrapped_model_averages_again(results):
    for result in results:
        hooked_before, plain = result["removed hook"]
        # Three rows are summed in another order once buckets were made anew.
        torch.testing.assert_close(hooked_before, plain, rtol=1e-6, atol=1e-7)


def of_two(results):
    if len(results) != 2:
        pytest.skip("looked at with two processes")
    return results


@pytest.mark.parametrize("outermost", [False, True])
def test_a_compiled_model_gets_the_update_of_one_process(results, outermost):
    if not compiler_found(torch.device("cpu")):
        pytest.skip("there is no compiler")
    key = ("compiled", outermost)
    calls = [result[key][1] for result in of_two(results)]
    assert calls == [STEPS] * 2
    alone = [{key: result[key][0]} for result in of_two(results)]
    assert_equal(alone, key, one_process("mlp", "and"))


def test_the_hook_with_batch_norm_has_the_statistics_of_each_domain(results):
    key = ("hooked", "cnn with batch norm", "and")
    assert_equal(of_two(results), key, one_process("cnn with batch norm", "and", two_domains))


@pytest.mark.parametrize("case", SHARDED, ids=str)
def test_sharded_parameters_get_the_update_of_one_process(results, case):
    assert_equal(of_two(results), ("sharded", *case), one_process(*case, even))


@pytest.mark.parametrize("case", SHARDED, ids=str)
def test_mixed_batches_of_sharded_parameters_give_the_update_of_one_process(results, case):
    assert_equal(of_two(results), ("mixed", *case), one_process(*case, even))


def test_sharded_training_goes_on_from_a_distributed_checkpoint(results):
    for result in of_two(results):
        assert torch.equal(result["saved and loaded"], result["sharded", "mlp", "agr-rand"])


def test_a_process_without_samples_has_no_say_in_running_statistics(results):
    model = build("cnn with batch norm")
    trained(dg.GradientAgreement(model, dg.ANDMask()), model, everything)
    found = of_two(results)[-1]["running statistics"]
    torch.testing.assert_close(found, model[2].running_mean, rtol=1e-5, atol=1e-7)


def test_bfloat16_on_the_way_costs_its_rounding_and_no_more(results):
    expected = one_process("mlp", "mean", two_domains)
    error = (results[0]["half"] - expected).norm() / expected.norm()
    assert 1e-6 < error.item() < 2**-7


def test_as_many_bytes_travel_as_in_a_ring_all_reduce(results):
    world = len(results)
    model = build("mlp")
    components = sum(parameter.numel() for parameter in model.parameters())
    ring = 2 * components * (world - 1) / world * 4
    for result in results:
        # Shards of a bucket are filled up to equal size: less than a component a rank and bucket.
        assert ring <= result["traffic"][False] <= ring + 2 * 4 * world * 6
        assert result["traffic"][True] == result["traffic"][False] / 2


@pytest.mark.parametrize("way", ["mixed", "hook"])
def test_what_is_not_finite_on_one_process_is_seen_on_all(results, way):
    seen = [result["not finite", way] for result in of_two(results)]
    assert [finite for finite, _ in seen] == [False, False]
    told = [warning for _, warned in seen for warning in warned]
    assert told
    assert all("non-finite gradient in domain 0" in warning for warning in told)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("rule", "rule: ANDMask(tau=1.0, rescale=True, average='arithmetic') on rank 0, ANDMask("),
        ("seed", "random state of the rule: "),
        ("hook", "the processes differ, so they cannot agree: rule: ANDMask(tau=1.0"),
        ("plain", "2 processes run, and this model is in none of DistributedDataParallel"),
        ("not wrapped", "expected a model in DistributedDataParallel; found a Sequential"),
        ("one domain", "needs at least 2 of them in a step; found 1 on all processes (domain [7])"),
        ("joint forward", "domain 1 went back through the forward pass of the domain before it"),
        ("other domains", "domains: 0, 2 on rank 0, 1, 3 on rank 1. Every process goes through"),
        ("other order", "domains: 0, 1 on rank 0, 1, 0 on rank 1."),
        ("rule on shards", "rule: ANDMask(tau=1.0"),
        ("weights", "weights: {0: 1.0} on rank 0, {0: 2.0} on rank 1"),
        ("hook and mixed", "agree in its communication already, by DDPAgreement"),
        ("hook and domains", "agree in its communication already, by DDPAgreement"),
        ("sharded", "every process needs samples of every domain of the step"),
        ("sharded, accumulated", "agree.accumulate keeps whole gradients, and fully_shard"),
    ],
)
def test_silent_mistakes_are_refused_on_every_process(results, case, message):
    for result in of_two(results):
        assert message in result["refusals"][case]


# Small and large ones are summed differently, and small ones together.
@pytest.mark.parametrize("sizes", [[1000], [70_000], [1000, 500]])
@pytest.mark.parametrize("rule", [dg.ANDMask(), dg.SANDMask(), dg.PCGrad()], ids=repr)
def test_the_domain_that_is_not_finite_is_named_and_no_other(rule, sizes, tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        rows = torch.randn(3, sum(sizes))
        rows[0, 5:7] = 3e38  # whose sum is too large for float32
        rows[1, 5] = torch.nan
        placement = Placement((0, 0, 0), (0, 1, 2), (1, 1, 1), 1)
        exchange = Exchange(rule, [3], lambda: placement, lambda _: None, None, None, "eager", None)
        exchange.take(Bucket(range(len(sizes)), sizes, rows))
        (bucket,) = exchange.finish()
    finally:
        dist.destroy_process_group()
    assert exchange.own_finite().tolist() == [True, False, True]
    is_finite = [part.isfinite().all() for part in bucket.update.split(sizes)]
    assert is_finite == [False] + [True] * (len(sizes) - 1)


def test_idle_is_for_several_processes():
    agree = dg.GradientAgreement(build("mlp"), dg.Mean())
    with pytest.raises(dg.AgreementError, match="is for a process without samples among others"):
        agree.idle()


def _dies(rank, world, directory):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{directory}/store", rank=rank, world_size=world,
        timeout=timedelta(seconds=20),
    )  # fmt: skip
    x, y, domain = batch(0)
    own = domain % world == rank
    agree = dg.GradientAgreement(DistributedDataParallel(build("mlp")), dg.ANDMask())
    step_of(agree, x[own], y[own], domain[own])
    losses = F.cross_entropy(agree(x[own], domain[own]), y[own], reduction="none")
    if rank == 1:
        os._exit(1)  # as kill -9 would
    began = time.monotonic()
    try:
        agree.backward(losses)
    except RuntimeError as error:
        Path(directory, "told").write_text(f"{time.monotonic() - began}\n{error}")
    os._exit(0)


def test_a_rank_that_dies_ends_the_others_with_an_error(tmp_path):
    context = torch.multiprocessing.get_context("spawn")
    ranks = [context.Process(target=_dies, args=(rank, 2, str(tmp_path))) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    seconds, error = (tmp_path / "told").read_text().split("\n", 1)
    assert float(seconds) < 30
    assert "onnection" in error or "imed out" in error
