"""Where the samples lie after a view, found by following numbered samples."""

from math import prod

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from domaingrad.engine.graph.layout import Sampled, viewed
from domaingrad.engine.units import Units

sizes = st.integers(1, 4)


@st.composite
def numbered(draw: st.DrawFn) -> tuple[Tensor, Sampled, int]:
    """A tensor that holds, at each entry, the number of its sample."""
    samples, before = draw(st.integers(2, 5)), draw(st.lists(sizes, max_size=2))
    after = draw(st.lists(sizes, max_size=2))
    outer, inner = draw(sizes), draw(sizes)
    along = torch.arange(samples).view(1, samples, 1).expand(outer, samples, inner).reshape(-1)
    shape = [*before, len(along), *after]
    tensor = along.view(*(1,) * len(before), -1, *(1,) * len(after)).expand(shape).contiguous()
    return tensor, Sampled(len(before), outer, inner), samples


def holds(tensor: Tensor, axis: Sampled, samples: int) -> bool:
    """Whether each part along the axis holds its own sample and no other."""
    parts = axis.split(tensor, Units((1,) * samples))
    return all(bool((part == number).all()) for number, part in enumerate(parts))


def factorizations(count: int, length: int) -> list[tuple[int, ...]]:
    if length == 1:
        return [(count,)]
    return [
        (first, *rest)
        for first in range(1, count + 1)
        if count % first == 0
        for rest in factorizations(count // first, length - 1)
    ]


@settings(deadline=None, max_examples=150)
@given(numbered(), st.integers(1, 4), st.data())
def test_a_view_keeps_each_sample_by_itself_or_is_refused(
    given_: tuple[Tensor, Sampled, int], length: int, data: st.DataObject
) -> None:
    tensor, axis, samples = given_
    assert holds(tensor, axis, samples)
    shape = data.draw(st.sampled_from(factorizations(tensor.numel(), length)))
    found = viewed(axis, tuple(tensor.shape), shape, samples)
    new = tensor.view(shape)
    if found is not None:
        assert new.shape[found.dim] == found.outer * samples * found.inner
        assert holds(new, found, samples)
        return
    # Refused: no dimension holds the samples in groups of equal parts.
    for dim, size in enumerate(shape):
        if size % samples == 0:
            for outer in range(1, size // samples + 1):
                if size // samples % outer == 0:
                    other = Sampled(dim, outer, size // samples // outer)
                    assert not holds(new, other, samples)


@settings(deadline=None, max_examples=100)
@given(numbered(), st.lists(sizes, min_size=2, max_size=3))
def test_parts_join_and_sums_are_those_of_the_parts(
    given_: tuple[Tensor, Sampled, int], counts: list[int]
) -> None:
    _, axis, _ = given_
    units = Units(tuple(counts))
    shape = [2] * axis.dim + [axis.outer * units.samples * axis.inner, 3]
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(prod(counts))).double()
    parts = axis.split(tensor, units)
    torch.testing.assert_close(axis.join(parts, units), tensor, rtol=0, atol=0)
    over = list(range(axis.dim + 1))
    expected = torch.stack([part.sum(over) for part in parts])
    torch.testing.assert_close(axis.sums(tensor, units, over), expected)
    only = torch.stack([part.sum(axis.dim) for part in parts])
    torch.testing.assert_close(axis.sums(tensor, units, [axis.dim]), only)
