"""Splits, seeds and selection."""

import hashlib

import torch
from torch.utils.data import TensorDataset

from domaingrad.bench.protocol import (
    Split,
    draw,
    generator_of,
    seed_of,
    split_domain,
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


def test_seeds_depend_on_every_name_and_on_nothing_else():
    digest = hashlib.sha256(b"a\nb").digest()
    assert seed_of("a", "b") == int.from_bytes(digest[:8], "big") // 2
    names = [("a",), ("a", "b"), ("ab",), ("b", "a"), (0, "a"), (1, "a")]
    assert len({seed_of(*n) for n in names}) == len(names)
    assert all(0 <= seed_of(*n) < 2**63 for n in names)


def test_the_latest_of_equally_good_checkpoints_is_selected():
    assert training_domain_validation([0.1, 0.9, 0.3]) == 1
    assert training_domain_validation([1.0, 0.9, 1.0, 0.5]) == 2
