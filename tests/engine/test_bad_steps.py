"""Errors of ``agree.domain`` and ``agree.combine``; what they leave behind."""

import pytest
import torch
from torch import nn

import domaingrad as dg


def build(rule: dg.rules.Rule | None = None) -> dg.GradientAgreement:
    torch.manual_seed(0)
    return dg.GradientAgreement(nn.Linear(2, 1, bias=False), rule or dg.Mean())


def take(agree: dg.GradientAgreement, name: object, size: float = 1.0) -> None:
    with agree.domain(name):
        (agree.model.weight * size).sum().backward()


def fail_in(agree: dg.GradientAgreement, name: object) -> None:
    with agree.domain(name):
        (agree.model.weight * 100.0).sum().backward()
        raise MemoryError


def assert_mean_of(agree: dg.GradientAgreement, *sizes: float) -> None:
    mean = sum(sizes) / len(sizes)
    assert agree.model.weight.grad.tolist() == [[mean, mean]]


def test_a_block_without_backward() -> None:
    agree = build()
    with (
        pytest.raises(dg.AgreementError, match=r"no backward.*domain 'a'.*loss\.backward\(\)"),
        agree.domain("a"),
    ):
        agree.model(torch.ones(1, 2)).sum()
    take(agree, "a", 2.0)
    agree.combine()
    assert_mean_of(agree, 2.0)


def test_a_block_whose_backward_misses_the_model() -> None:
    agree, other = build(), nn.Linear(2, 1)
    with (
        pytest.raises(dg.AgreementError, match=r"no backward.*parameter of the model"),
        agree.domain("a"),
    ):
        other.weight.sum().backward()


def test_a_block_within_a_block() -> None:
    agree = build()
    with agree.domain("a"):
        with pytest.raises(dg.AgreementError, match=r"domain.*'b'.*inside the block of domain 'a'"):
            take(agree, "b", 100.0)
        (agree.model.weight * 3.0).sum().backward()
    agree.combine()
    assert_mean_of(agree, 3.0)


def test_the_same_domain_twice() -> None:
    agree = build()
    take(agree, "a", 1.0)
    with pytest.raises(dg.AgreementError, match=r"'a' was already taken.*one block.*combine"):
        take(agree, "a", 100.0)
    take(agree, "b", 3.0)
    agree.combine()
    assert_mean_of(agree, 1.0, 3.0)


def test_combine_without_domains() -> None:
    agree = build()
    with pytest.raises(dg.AgreementError, match=r"no domain in this step.*agree\.domain"):
        agree.combine()
    take(agree, "a")
    agree.combine()
    with pytest.raises(dg.AgreementError, match="no domain in this step"):
        agree.combine()
    assert_mean_of(agree, 1.0)


def test_combine_inside_a_block() -> None:
    agree = build()
    take(agree, "a", 1.0)
    with agree.domain("b"):
        (agree.model.weight * 3.0).sum().backward()
        with pytest.raises(dg.AgreementError, match=r"combine.*inside the block of domain 'b'"):
            agree.combine()
    agree.combine()
    assert_mean_of(agree, 1.0, 3.0)


def test_forward_inside_a_block() -> None:
    agree = build()
    with agree.domain("a"):
        with pytest.raises(dg.AgreementError, match="inside the block of domain 'a'"):
            agree(torch.ones(2, 2), torch.tensor([0, 1]))
        agree.model.weight.sum().backward()


def test_backward_inside_a_block() -> None:
    agree = build()
    kept = torch.ones(1, 2)
    agree.model.weight.grad = kept
    losses = agree(torch.ones(2, 2), torch.tensor([0, 1])).sum(1)
    with (
        pytest.raises(dg.AgreementError, match="inside the block of domain 'a'"),
        agree.domain("a"),
    ):
        agree.backward(losses)
    assert agree.model.weight.grad is kept, ".grad is as before after the block"
    agree.model.weight.grad = None
    take(agree, "a", 2.0)
    agree.combine()
    assert_mean_of(agree, 2.0)


def test_backward_while_domains_wait() -> None:
    agree = build()
    take(agree, "a", 2.0)
    losses = agree(torch.ones(2, 2), torch.tensor([0, 1])).sum(1)
    with pytest.raises(dg.AgreementError, match=r"'a' wait for agree\.combine\(\)"):
        agree.backward(losses)
    agree.combine()
    assert_mean_of(agree, 2.0)


@pytest.mark.parametrize("rule", [dg.ANDMask, dg.SANDMask, dg.AgrSum, dg.AgrRand, dg.PCGrad])
def test_a_single_domain(rule: type[dg.rules.Rule]) -> None:
    agree = build(rule())
    take(agree, "photo")
    with pytest.raises(ValueError, match=rf"{rule.__name__}.*at least 2.*found 1.*'photo'"):
        agree.combine()
    assert agree.model.weight.grad is None
    take(agree, "photo")
    take(agree, "sketch")
    agree.combine()
    assert agree.model.weight.grad is not None


def test_an_exception_in_a_block_forgets_that_domain_only() -> None:
    agree = build()
    kept = torch.full((1, 2), 10.0)
    agree.model.weight.grad = kept
    take(agree, "a", 1.0)
    with pytest.raises(MemoryError):
        fail_in(agree, "b")
    assert agree.model.weight.grad is kept
    assert kept.tolist() == [[10.0, 10.0]]
    take(agree, "b", 3.0)
    agree.combine()
    assert agree.model.weight.grad.tolist() == [[12.0, 12.0]]


def test_an_exception_in_the_first_block() -> None:
    agree = build()
    with pytest.raises(MemoryError):
        fail_in(agree, "a")
    assert agree.model.weight.grad is None
    with pytest.raises(dg.AgreementError, match="no domain"):
        agree.combine()
    take(agree, "a", 3.0)
    agree.combine()
    assert_mean_of(agree, 3.0)


def test_leaving_a_block_by_continue_takes_the_domain() -> None:
    agree = build()
    for name, size in (("a", 1.0), ("b", 3.0)):
        with agree.domain(name):
            (agree.model.weight * size).sum().backward()
            continue
    agree.combine()
    assert_mean_of(agree, 1.0, 3.0)


def test_a_sparse_gradient() -> None:
    model = nn.Embedding(5, 2, sparse=True)
    agree = dg.GradientAgreement(model, dg.Mean())
    with pytest.raises(TypeError, match=r"domain 3 has a sparse gradient.*sparse=False"):
        agree.backward(agree(torch.arange(4), torch.tensor([3, 3, 4, 4])).sum(1))
    with pytest.raises(TypeError, match="domain 'a' has a sparse gradient"), agree.domain("a"):
        model(torch.arange(4)).sum().backward()
    assert model.weight.grad is None


def test_an_abandoned_step_is_forgotten() -> None:
    agree = build()
    take(agree, "a", 100.0)
    agree.discard()
    with pytest.raises(dg.AgreementError, match="found no domain"):
        agree.combine()
    take(agree, "a", 2.0)
    agree.combine()
    assert_mean_of(agree, 2.0)


def test_an_abandoned_batch_is_forgotten() -> None:
    agree = build()
    losses = agree(torch.ones(2, 2), torch.tensor([0, 1])).sum(1)
    agree.discard()
    with pytest.raises(dg.AgreementError, match=r"needs outputs of agree\(x, domain\)"):
        agree.backward(losses)
    with agree.domain("a"):
        with pytest.raises(dg.AgreementError, match="inside the block of domain 'a'"):
            agree.discard()
        (agree.model.weight * 3.0).sum().backward()
    agree.combine()
    assert_mean_of(agree, 3.0)
