"""Errors of ``agree.backward(losses)``; after each a good step works."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import domaingrad as dg

X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 1, 0, 0, 1])
DOMAIN = torch.tensor([0, 1, 0, 1, 0, 1])


def build() -> dg.GradientAgreement:
    torch.manual_seed(0)
    return dg.GradientAgreement(
        nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), dg.Mean()
    )


def good_step(agree: dg.GradientAgreement) -> None:
    agree.backward(F.cross_entropy(agree(X, DOMAIN), Y, reduction="none"))


def assert_clean(agree: dg.GradientAgreement) -> None:
    """Nothing left in ``.grad``, and the next step gives what a fresh object gives."""
    assert all(parameter.grad is None for parameter in agree.model.parameters())
    fresh = build()
    good_step(fresh)
    good_step(agree)
    for actual, expected in zip(agree.model.parameters(), fresh.model.parameters(), strict=True):
        assert torch.equal(actual.grad, expected.grad)


@pytest.mark.parametrize(
    ("reduce", "found"),
    [
        (lambda out: F.cross_entropy(out, Y), r"found \[\].*reduction='none'"),
        (lambda out: out, r"found \[6, 2\].*reduction='none'.*mean over"),
        (lambda out: out.sum(1, keepdim=True), r"found \[6, 1\].*mean over"),
        (lambda out: out.sum(1)[:4], r"found \[4\]"),
        (lambda out: out.flatten(), r"found \[12\]"),
    ],
    ids=["scalar", "2-d", "column", "too few", "too many"],
)
def test_losses_that_are_not_one_a_sample(reduce: Callable[[Tensor], Tensor], found: str) -> None:
    agree = build()
    with pytest.raises(ValueError, match=rf"one loss per sample, shape \[6\].*{found}"):
        agree.backward(reduce(agree(X, DOMAIN)))
    assert_clean(agree)


def test_losses_that_are_no_tensor() -> None:
    agree = build()
    outputs = agree(X, DOMAIN)
    with pytest.raises((TypeError, ValueError), match=r"tensor.*list"):
        agree.backward(list(outputs.sum(1)))  # type: ignore[arg-type]
    assert_clean(agree)


def test_losses_of_an_earlier_batch() -> None:
    agree = build()
    stale = agree(X, DOMAIN).sum(1)
    agree(2 * X, DOMAIN)
    with pytest.raises(dg.AgreementError, match=r"not agree.backward.*in one call"):
        agree.backward(stale)
    assert_clean(agree)


def test_losses_of_the_model_itself() -> None:
    agree = build()
    agree(X, DOMAIN)
    with pytest.raises(dg.AgreementError, match="do not depend on the outputs"):
        agree.backward(agree.model(X).sum(1))
    assert_clean(agree)


def test_losses_of_two_batches() -> None:
    """Two views of each sample, say: the gradient through the first must not be lost."""
    agree = build()
    one, other = agree(X, DOMAIN), agree(2 * X, DOMAIN)
    try:
        agree.backward((one * other).sum(1))
    except dg.AgreementError:
        assert_clean(agree)
        return
    plain = build().model
    products = (plain(X) * plain(2 * X)).sum(1)
    (products[DOMAIN == 0].mean() + products[DOMAIN == 1].mean()).div(2).backward()
    for actual, expected in zip(agree.model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, expected.grad)


def test_losses_of_detached_outputs() -> None:
    agree = build()
    losses = F.cross_entropy(agree(X, DOMAIN).detach(), Y, reduction="none")
    with pytest.raises((dg.AgreementError, ValueError), match=r"detach|depend|grad"):
        agree.backward(losses)
    assert_clean(agree)


def test_losses_of_one_domain_detached() -> None:
    """Per-sample losses put together by hand, one domain's without its graph."""
    agree = build()
    losses = agree(X, DOMAIN).sum(1)
    parts = [losses[i] if DOMAIN[i] == 0 else torch.zeros(()) for i in range(6)]
    # Either domain 1 counts as zero, as the outputs reach its losses by no path, or an error.
    try:
        agree.backward(torch.stack(parts))
    except dg.AgreementError:
        assert_clean(agree)
    else:
        assert torch.allclose(agree.model[2].bias.grad, torch.full((2,), 0.5))


def test_backward_without_a_forward() -> None:
    agree = build()
    with pytest.raises(dg.AgreementError, match=r"needs outputs of agree\(x, domain\)"):
        agree.backward(torch.ones(6, requires_grad=True))
    assert_clean(agree)


def test_backward_after_a_forward_without_gradients() -> None:
    agree = build()
    with torch.no_grad():
        losses = agree(X, DOMAIN).sum(1)
    with pytest.raises(dg.AgreementError, match="gradients enabled"):
        agree.backward(losses)
    assert_clean(agree)


def test_backward_twice() -> None:
    agree = build()
    losses = agree(X, DOMAIN).sum(1)
    agree.backward(losses)
    agree.model.zero_grad()
    with pytest.raises(dg.AgreementError, match=r"agree\(x, domain\) before each backward"):
        agree.backward(losses)
    assert_clean(agree)


def contrastive(z: Tensor) -> Tensor:
    similarities = F.normalize(z) @ F.normalize(z).T
    return F.cross_entropy(
        similarities.fill_diagonal_(-1e9), torch.arange(6).flip(0), reduction="none"
    )


@pytest.mark.parametrize(
    "mixing",
    [
        contrastive,
        lambda z: (z - z.mean(0)).square().sum(1),
        lambda z: F.batch_norm(z, None, None, training=True).cos().sum(1),
        lambda z: (0.5 * z + 0.5 * z.flip(0)).square().sum(1),
        lambda z: z.sum(1) + 1e-6 * z.sum(),
    ],
    ids=["contrastive", "centred", "batch norm", "mixup of features", "shared penalty"],
)
def test_losses_that_mix_domains(mixing: Callable[[Tensor], Tensor]) -> None:
    agree = build()
    with pytest.raises(dg.AgreementError, match=r"depend on outputs of another.*agree\.domain"):
        agree.backward(mixing(agree(X, DOMAIN)))
    assert_clean(agree)


def test_losses_that_mix_samples_of_one_domain_only() -> None:
    """They are a domain's own: no error."""
    agree = build()

    def centred(z: Tensor) -> Tensor:
        means = torch.stack([z[e == DOMAIN].mean(0) for e in (0, 1)])
        return (z - means[DOMAIN]).square().sum(1)

    agree.backward(centred(agree(X, DOMAIN)))
    plain = build().model
    losses = centred(plain(X))
    (losses[DOMAIN == 0].mean() + losses[DOMAIN == 1].mean()).div(2).backward()
    torch.testing.assert_close(agree.model[0].weight.grad, plain[0].weight.grad)


def test_an_exception_in_the_backward_pass() -> None:
    """Raised by a hook when the second domain passes; ``.grad`` and the next step are sound."""
    agree = build()
    kept = torch.ones_like(agree.model[0].weight)
    agree.model[0].weight.grad = kept
    calls = []

    def fail_at_the_second_domain(gradient: Tensor) -> None:
        calls.append(gradient)
        if len(calls) == 2:
            raise MemoryError("injected")

    hook = agree.model[0].weight.register_hook(fail_at_the_second_domain)
    with pytest.raises(MemoryError, match="injected"):
        good_step(agree)
    hook.remove()
    assert agree.model[0].weight.grad is kept
    assert (kept == 1).all()
    agree.model[0].weight.grad = None
    assert_clean(agree)


def test_an_exception_of_the_rule() -> None:
    class Broken(dg.rules.authoring.ElementwiseRule):
        statistics = frozenset({"mean"})
        broken = True

        def propose(self, statistics: dg.rules.authoring.Statistics) -> dg.rules.authoring.Proposal:
            if self.broken:
                raise ArithmeticError("injected")
            return dg.rules.authoring.Proposal(statistics.mean)

    rule = Broken()
    agree = dg.GradientAgreement(build().model, rule)
    with pytest.raises(ArithmeticError, match="injected"):
        good_step(agree)
    rule.broken = False
    assert_clean(agree)


def test_a_plain_backward_on_the_outputs_is_refused() -> None:
    """The likeliest slip after changing a loop; it would train nothing, silently."""
    agree = build()
    with pytest.raises(dg.AgreementError, match=r"in place of loss\.backward\(\)"):
        agree(X, DOMAIN).sum().backward()
