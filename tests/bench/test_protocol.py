"""Splits, seeds and selection."""

import hashlib
from dataclasses import replace

import pytest
import torch
from torch.utils.data import TensorDataset

from domaingrad.bench.protocol import (
    SELECTIONS,
    Candidate,
    PowerOfTen,
    PowerOfTwo,
    Split,
    Uniform,
    draw,
    generator_of,
    seed_of,
    split_domain,
    strata_of,
    training_domain_validation,
)


def test_a_split_is_80_to_20_and_loses_no_sample():
    data = TensorDataset(torch.arange(50.0).unsqueeze(1), torch.arange(50))
    split = split_domain(data, generator_of("split"))
    assert (len(split.train), len(split.val)) == (40, 10)
    assert sorted(torch.cat([split.train, split.val]).tolist()) == list(range(50))
    assert split.data is data


def test_batches_are_drawn_with_replacement_from_the_given_samples_alone():
    data = TensorDataset(torch.arange(50.0), torch.arange(50))
    split = Split(data, train=torch.arange(10, 15), val=torch.arange(15, 20))
    inputs, labels = draw(split, 200, generator_of("batch"))
    assert torch.equal(inputs.long(), labels)
    assert set(labels.tolist()) == set(range(10, 15))


def test_what_belongs_together_is_split_whole_and_class_by_class():
    groups = torch.arange(100) // 4  # 25 videos of 4 frames
    labels = (groups % 5 == 0).long()  # 5 videos of the second class
    data = TensorDataset(torch.arange(100.0), labels)
    order = torch.randperm(100, generator=generator_of("order"))
    data = TensorDataset(*(tensor[order] for tensor in data.tensors))
    groups = groups[order]
    split = split_domain(data, generator_of("split"), groups)
    train, val = set(groups[split.train].tolist()), set(groups[split.val].tolist())
    assert not train & val
    assert train | val == set(range(25))
    assert sorted(torch.cat([split.train, split.val]).tolist()) == list(range(100))
    assert [len({g for g in train if (g % 5 == 0) == second}) for second in (False, True)] == [
        16,
        4,
    ]
    other = split_domain(data, generator_of("another"), groups)
    assert set(groups[other.train].tolist()) != train


def test_batches_of_strata_hold_as_many_of_each():
    labels = torch.tensor([0] * 90 + [1] * 10)
    data = TensorDataset(torch.arange(100.0), labels)
    split = split_domain(data, generator_of("split"), torch.arange(100))
    split = replace(split, strata=strata_of(split.train, labels))
    inputs, drawn = draw(split, 7, generator_of("batch"))
    assert sorted(drawn.bincount().tolist()) == [3, 4]
    assert set(inputs.long().tolist()) <= set(split.train.tolist())
    assert torch.equal(labels[inputs.long()], drawn)


def test_seeds_depend_on_every_name_and_on_nothing_else():
    digest = hashlib.sha256(b"a\nb").digest()
    assert seed_of("a", "b") == int.from_bytes(digest[:8], "big") // 2
    names = [("a",), ("a", "b"), ("ab",), ("b", "a"), (0, "a"), (1, "a")]
    assert len({seed_of(*n) for n in names}) == len(names)
    assert all(0 <= seed_of(*n) < 2**63 for n in names)


def test_the_latest_of_equally_good_checkpoints_is_selected():
    assert training_domain_validation([0.1, 0.9, 0.3]) == 1
    assert training_domain_validation([1.0, 0.9, 1.0, 0.5]) == 2


def candidate(draw=0, step=1, last=True, source=0.5, others=0.5, held_out=0.5):
    return Candidate(draw, step, last, source, others, held_out)


def test_each_selection_method_looks_at_its_own_scores_alone():
    candidates = [
        candidate(draw=0, step=1, last=False, source=0.9, others=0.1, held_out=0.1),
        candidate(draw=1, step=1, last=False, source=0.1, others=0.9, held_out=0.2),
        candidate(draw=2, step=2, last=True, source=0.2, others=0.2, held_out=0.8),
        candidate(draw=3, step=1, last=False, source=0.3, others=0.3, held_out=0.9),
    ]
    chosen = {name: method.select(candidates).draw for name, method in SELECTIONS.items()}
    assert chosen == {
        "training-domain-validation": 0,
        "leave-one-domain-out": 1,
        "oracle-last": 2,
        "oracle-best": 3,
    }
    assert [name for name, method in SELECTIONS.items() if method.oracle] == [
        "oracle-last", "oracle-best",
    ]  # fmt: skip


def test_of_equals_the_first_draw_and_its_latest_checkpoint_count():
    equal = [candidate(draw=d, step=s, last=s == 3) for d in (2, 1) for s in (1, 3, 2)]
    for method in SELECTIONS.values():
        chosen = method.select(equal)
        assert (chosen.draw, chosen.step) == (1, 3)


def test_what_cannot_be_told_is_not_selected():
    method = SELECTIONS["leave-one-domain-out"]
    assert method.select([candidate(others=None)]) is None
    assert method.select([candidate(others=None), candidate(draw=1, others=0.0)]).draw == 1
    assert all(method.select([]) is None for method in SELECTIONS.values())


@pytest.mark.parametrize(
    ("distribution", "at"),
    [
        (Uniform(0.5, 1), [0.5, 0.75, 1]),
        (PowerOfTen(-5, -3), [1e-5, 1e-4, 1e-3]),
        (PowerOfTwo(3, 5.5), [8, 19, 45]),  # 2^4.25 = 19.03, 2^5.5 = 45.25
        (PowerOfTwo(-3, -1), [1, 1, 1]),
    ],
)
def test_distributions_are_those_of_their_names(distribution, at):
    assert [distribution.at(u) for u in (0, 0.5, 1)] == pytest.approx(at)
