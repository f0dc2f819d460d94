"""What samplers promise: epochs, balance, places, and going on where they were left."""

from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, TensorDataset

from domaingrad.samplers import BalancedSampler, DomainPerRankSampler, MixedSampler

DOMAIN = torch.tensor([5] * 10 + [2] * 3 + [8] * 7)[torch.randperm(20)]
KINDS = {
    "balanced": BalancedSampler,
    "mixed": MixedSampler,
    "domain per rank": DomainPerRankSampler,
}


def ranks(kind, world, **options):
    return [KINDS[kind](DOMAIN, rank=rank, world=world, **options) for rank in range(world)]


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_every_rank_has_as_many_steps(kind, world):
    samplers = ranks(kind, world, batch=2, seed=4)
    assert {len(list(sampler)) for sampler in samplers} == {len(samplers[0])}


@pytest.mark.parametrize("world", [1, 2, 3])
def test_each_step_holds_as_many_samples_of_every_domain(world):
    samplers = ranks("balanced", world, batch=2)
    for step in zip(*map(list, samplers), strict=True):
        rows = [row for batch in step for row in batch]
        assert Counter(DOMAIN[rows].tolist()) == {5: 2, 2: 2, 8: 2}


def test_an_epoch_gives_the_largest_domain_once_and_the_others_as_evenly_as_can_be():
    sampler = BalancedSampler(DOMAIN, batch=2)
    for _ in range(6):
        rows = Counter(row for batch in sampler for row in batch)
        assert all(rows[row] == 1 for row in (DOMAIN == 5).nonzero().flatten().tolist())
        small = [rows[row] for row in (DOMAIN == 2).nonzero().flatten().tolist()]
        assert sum(small) == 10
        assert max(small) - min(small) <= 2


@pytest.mark.parametrize("world", [1, 2, 4, 7])
def test_an_epoch_of_the_mixed_sampler_gives_each_sample_once(world):
    samplers = ranks("mixed", world, batch=6)
    for _ in range(2):
        epochs = [list(sampler) for sampler in samplers]
        rows = [row for epoch in epochs for batch in epoch for row in batch]
        assert sorted(rows) == list(range(20))
    if world == 7:
        assert [] in [epoch[-1] for epoch in epochs]


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
def test_a_rank_has_one_domain_in_a_step_and_says_which(world):
    samplers = ranks("domain per rank", world, batch=2)
    for sampler in samplers:
        for step, batch in enumerate(list(sampler)):
            assert {DOMAIN[row].item() for row in batch} == {sampler.domain_at(0, step)}


def test_with_fewer_ranks_domains_take_turns_each_as_often():
    samplers = ranks("domain per rank", 2, batch=1)
    visits = Counter(
        sampler.domain_at(epoch, step)
        for sampler in samplers
        for epoch in range(2)
        for step in range(len(sampler))
    )
    assert set(visits.values()) == {20}  # 2 ranks × 2 epochs × 15 steps over 3 domains


@pytest.mark.parametrize(("domains", "world"), [(3, 2), (5, 2), (4, 3), (5, 3), (6, 4), (7, 6)])
def test_domains_that_take_turns_never_meet_themselves_in_a_step(domains, world):
    domain = torch.arange(domains).repeat_interleave(20)
    samplers = [DomainPerRankSampler(domain, 2, rank=rank, world=world) for rank in range(world)]
    for epoch in range(2):
        for step in range(len(samplers[0])):
            assert len({sampler.domain_at(epoch, step) for sampler in samplers}) == world


def test_ranks_that_share_a_domain_have_other_samples_of_it():
    samplers = ranks("domain per rank", 6, batch=1)
    sharing = [sampler for sampler in samplers if sampler.domain_at(0, 0) == 5]
    assert len(sharing) == 2
    rows = [row for sampler in sharing for batch in list(sampler) for row in batch]
    assert sorted(rows) == (DOMAIN == 5).nonzero().flatten().tolist()  # an epoch, each once


@pytest.mark.parametrize("kind", KINDS)
def test_it_goes_on_where_it_was_left(kind):
    (whole,) = ranks(kind, 1, batch=3, seed=1)
    expected = [batch for _ in range(3) for batch in whole]
    (cut,) = ranks(kind, 1, batch=3, seed=1)
    walk = iter(cut)
    taken = [next(walk) for _ in range(2)]
    (again,) = ranks(kind, 1, batch=3, seed=1)
    again.load_state_dict(cut.state_dict())
    taken += [batch for _ in range(3) for batch in again]
    assert taken == expected
    (other,) = ranks(kind, 1, batch=3, seed=2)
    assert [batch for _ in range(3) for batch in other] != expected


def test_a_loader_takes_it_as_its_batch_sampler():
    data = TensorDataset(torch.arange(20), DOMAIN)
    loader = DataLoader(data, batch_sampler=BalancedSampler(DOMAIN, batch=2))
    for rows, domain in loader:
        assert torch.equal(DOMAIN[rows], domain)
        assert Counter(domain.tolist()) == {5: 2, 2: 2, 8: 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"domain": torch.zeros(0, dtype=torch.long), "batch": 1}, "found shape \\[0\\]"),
        ({"domain": torch.zeros(3), "batch": 1}, "must be an integer tensor"),
        ({"domain": DOMAIN, "batch": 0}, "batch must be at least 1; found 0"),
        ({"domain": DOMAIN, "batch": 1, "rank": 2, "world": 2}, "rank must be in 0 … 1; found 2"),
    ],
)
def test_bad_arguments_are_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        MixedSampler(**arguments)


def test_an_epoch_that_is_left_early_is_not_gone_on_with() -> None:
    sampler, whole = (MixedSampler(DOMAIN, 2, seed=3) for _ in range(2))
    epochs = [list(whole) for _ in range(2)]
    next(iter(sampler))
    assert list(sampler) == epochs[1]


def test_a_loaded_state_is_gone_on_with() -> None:
    sampler, other = (MixedSampler(DOMAIN, 2, seed=3) for _ in range(2))
    given = iter(sampler)
    next(given)
    other.load_state_dict(sampler.state_dict())
    assert list(other) == list(given)
    assert list(other) == list(sampler)


def test_the_process_group_says_which_rank_it_is(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        assert list(MixedSampler(DOMAIN, 2)) == list(MixedSampler(DOMAIN, 2, rank=0, world=1))
        assert list(MixedSampler(DOMAIN, 2, rank=1, world=2)) != list(MixedSampler(DOMAIN, 2))
    finally:
        dist.destroy_process_group()
