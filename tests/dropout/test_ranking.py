"""Ranks and masks against sorting."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from domaingrad.dropout.ranking import BINS, kept, ranking_of


def ranks(scores, lowest=False):
    ranking = ranking_of(scores, lowest)
    return ranking.ranks[ranking.bins]


SCORES = st.lists(
    st.sampled_from([0.0, 0.25, 0.5, 1.0]) | st.floats(0, 1, width=32), min_size=1, max_size=60
)


@settings(deadline=None)
@given(SCORES, st.floats(0, 0.99), st.booleans())
def test_exactly_so_many_of_the_extreme_scores_are_dropped(scores, ratio, lowest):
    values = np.array(scores, dtype=np.float32)
    count = round(ratio * len(values))
    mask = kept(torch.from_numpy(values), count, lowest).numpy()
    assert (~mask).sum() == count
    expected = np.sort(values)[:count] if lowest else np.sort(values)[len(values) - count :]
    np.testing.assert_array_equal(np.sort(values[~mask]), expected)


def test_shape_and_ties():
    scores = torch.zeros(2, 3)
    mask = kept(scores, 4)
    assert mask.shape == (2, 3)
    assert mask.flatten().tolist() == [False] * 4 + [True] * 2


@pytest.mark.parametrize("lowest", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e12])
def test_ranks_are_those_of_sorting_up_to_a_bin(lowest, scale):
    values = torch.rand(5000, generator=torch.Generator().manual_seed(0)).square() * scale
    found = ranks(values, lowest).numpy()
    order = np.argsort(-values.numpy() if lowest else values.numpy())
    expected = np.empty(5000)
    expected[order] = np.arange(1, 5001) / 5000
    # A bin holds a third of a component whose root is uniform, seldom more than six.
    assert 5000 / BINS < 0.5
    assert np.abs(found - expected).max() <= 6 / 5000


def test_equal_scores_share_the_mean_of_their_ranks():
    assert ranks(torch.zeros(4)).tolist() == [0.625] * 4
    assert ranks(torch.ones(2, 2), lowest=True).tolist() == [[0.625, 0.625], [0.625, 0.625]]
    assert ranks(torch.tensor([0.5, 0.1, 0.5])).tolist() == pytest.approx([5 / 6, 1 / 3, 5 / 6])


def test_layouts():
    scores = torch.arange(12.0).view(3, 4).t()
    assert kept(scores, 5).sum() == 7
    assert not kept(scores, 5)[3, 2]
    assert kept(torch.zeros(4, 3).t(), 5).sum() == 7
