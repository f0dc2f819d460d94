"""The rules that draw: from a generator of their own, whose state a checkpoint holds."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from domaingrad.rules import AgrRand, Mean, PCGrad, Rule

from .test_pcgrad import CONFLICTING
from .variants import seeded

# Every pair of domains conflicts; a fourth component where they agree gives AgrRand its s.
STACK = torch.cat([torch.tensor(CONFLICTING), torch.full((3, 1), 0.01)], dim=1)

drawing_rule = pytest.mark.parametrize("make", [AgrRand, PCGrad])


def sequence(rule: Rule, calls: int = 20) -> list[list[float]]:
    return [rule(STACK).tolist() for _ in range(calls)]


@drawing_rule
def test_a_seed_fixes_the_sequence(make: Callable[..., Rule]) -> None:
    assert sequence(make(seeded(3))) == sequence(make(seeded(3)))
    # 20 draws of one of 8 results for PCGrad agree with probability below 1e-18.
    assert sequence(make(seeded(3))) != sequence(make(seeded(4)))


@drawing_rule
def test_without_generator_the_sequence_is_that_of_seed_0(make: Callable[..., Rule]) -> None:
    assert sequence(make()) == sequence(make(seeded(0)))


@drawing_rule
def test_the_generator_given_is_the_one_used(make: Callable[..., Rule]) -> None:
    generator = seeded(3)
    before = generator.get_state()
    make(generator)(STACK)
    assert not torch.equal(generator.get_state(), before)


@drawing_rule
def test_state_goes_on_where_it_was_saved(make: Callable[..., Rule], tmp_path: Path) -> None:
    rule = make(seeded(3))
    sequence(rule, 5)
    torch.save(rule.state_dict(), tmp_path / "rule.pt")
    expected = sequence(rule)
    restored = make(seeded(99))
    restored.load_state_dict(torch.load(tmp_path / "rule.pt", weights_only=True))
    assert sequence(restored) == expected


@drawing_rule
def test_a_saved_state_does_not_move_with_the_rule(make: Callable[..., Rule]) -> None:
    rule = make(seeded(3))
    state = rule.state_dict()
    first = sequence(rule)
    rule.load_state_dict(state)
    assert sequence(rule) == first


@drawing_rule
def test_state_before_the_first_draw(make: Callable[..., Rule]) -> None:
    state = make().state_dict()
    rule = make()
    expected = sequence(rule)
    rule.load_state_dict(state)
    assert sequence(rule) == expected


def test_a_rule_that_does_not_draw_has_no_state() -> None:
    assert Mean().state_dict() == {}


def test_a_rule_without_state_refuses_one() -> None:
    with pytest.raises(ValueError, match=r"Mean\(\) keeps no state; found one with \['device',"):
        Mean().load_state_dict(AgrRand(seeded(3)).state_dict())
