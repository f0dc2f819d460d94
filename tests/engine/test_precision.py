"""Mixed precision: autocast and the loss scale."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import domaingrad as dg

from .separate_passes import WAYS, Way

X = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2] * 4)
DOMAIN = torch.tensor([2, 5, 8, 5] * 3)
SCALE = 2.0**12


def build() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def step(
    model: nn.Module,
    rule: dg.rules.Rule,
    way: Way,
    scaler: torch.amp.GradScaler | None = None,
    told: bool = True,
    x: Tensor = X,
) -> list[Tensor]:
    """One step; ``told`` says whether the agreement knows of the scaler."""
    agree = dg.GradientAgreement(model, rule, scaler=scaler if told else None)

    def scaled(loss: Tensor) -> Tensor:
        return loss if scaler is None else scaler.scale(loss)

    if way == "mixed batch":
        agree.backward(scaled(F.cross_entropy(agree(x, DOMAIN), Y, reduction="none")))
    else:
        for label in DOMAIN.unique().tolist():
            own = label == DOMAIN
            with agree.domain(label):
                scaled(F.cross_entropy(model(x[own]), Y[own])).backward()
        agree.combine()
    return [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(way: Way, dtype: torch.dtype) -> None:
    with torch.autocast("cpu", dtype=dtype):
        actual = step(build(), dg.Mean(), way)
    reference, gradients = build(), []
    for label in DOMAIN.unique().tolist():
        own = label == DOMAIN
        with torch.autocast("cpu", dtype=dtype):
            loss = F.cross_entropy(reference(X[own]), Y[own])
        gradients.append(torch.autograd.grad(loss, list(reference.parameters())))
    for update, separate in zip(actual, zip(*gradients, strict=True), strict=True):
        assert update.dtype == torch.float32
        # The same half-precision passes; 1/n may round to a neighbour in 8 or 11 bits.
        torch.testing.assert_close(update, torch.stack(separate).mean(0), rtol=1e-2, atol=1e-3)


# k = 0.001 leaves masks between 0 and 1 at these gradient sizes, where the scale shows.
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "make",
    [
        lambda: dg.SANDMask(0.4, 0.001),
        lambda: dg.ANDMask(average="geometric"),
        dg.AgrRand,
        dg.PCGrad,
    ],
    ids=["sand", "geometric", "agr-rand", "pcgrad"],
)
def test_the_loss_scale_is_undone_before_the_rule_and_put_back(make: object, way: Way) -> None:
    unscaled = step(build(), make(), way)  # type: ignore[operator]
    model, scaler = build(), torch.amp.GradScaler("cpu", init_scale=SCALE)
    scaled = step(model, make(), way, scaler)  # type: ignore[operator]
    for one, other in zip(unscaled, scaled, strict=True):
        # A power of two: no rounding, so the same bits.
        assert torch.equal(other / SCALE, one)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scaler.unscale_(optimizer)
    for one, parameter in zip(unscaled, model.parameters(), strict=True):
        assert torch.equal(parameter.grad, one)


def test_sand_would_notice_a_scale_that_is_left_in() -> None:
    """Else the test above shows nothing."""
    unscaled = step(build(), dg.SANDMask(0.4, 0.001), "mixed batch")
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
    scaled = step(build(), dg.SANDMask(0.4, 0.001), "mixed batch", scaler, told=False)
    assert not torch.allclose(scaled[0] / SCALE, unscaled[0], rtol=0.1)


def test_a_scale_that_changes_between_steps() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE, growth_interval=1)
    model = build()
    agree = dg.GradientAgreement(model, dg.SANDMask(0.4, 0.001), scaler=scaler)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    expected = step(build(), dg.SANDMask(0.4, 0.001), "mixed batch")
    for grown in (1, 2, 4):
        optimizer.zero_grad()
        losses = F.cross_entropy(agree(X, DOMAIN), Y, reduction="none")
        agree.backward(scaler.scale(losses))
        assert torch.equal(model[0].weight.grad / (SCALE * grown), expected[0])
        scaler.step(optimizer)
        scaler.update()


def test_the_scale_is_undone_in_float32() -> None:
    """(1 + 2⁻¹⁰) / 2¹⁶ is a float16 only as 2⁻¹⁶: loss scales are there to avoid just that."""
    model = nn.Linear(2, 1, bias=False).half()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    agree = dg.GradientAgreement(model, dg.Mean(), scaler=scaler)
    for name in "ab":
        with agree.domain(name):
            (model.weight * (1 + 2.0**-10)).sum().backward()
    agree.combine()
    assert model.weight.grad.tolist() == [[1 + 2.0**-10] * 2]


def test_a_disabled_scaler_changes_nothing() -> None:
    expected = step(build(), dg.SANDMask(0.4, 0.001), "mixed batch")
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    actual = step(build(), dg.SANDMask(0.4, 0.001), "mixed batch", scaler)
    assert all(torch.equal(one, other) for one, other in zip(actual, expected, strict=True))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
@pytest.mark.parametrize(
    "make",
    [dg.Mean, dg.ANDMask, dg.SANDMask, dg.AgrSum, dg.AgrRand, dg.PCGrad],
    ids=lambda rule: rule.__name__,
)
def test_the_scaler_skips_a_step_with_one_bad_domain(make: object, bad: float, way: Way) -> None:
    x = X.clone()
    x[0, 0] = bad  # domain 2
    model, scaler = build(), torch.amp.GradScaler("cpu", init_scale=SCALE)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    step(model, make(), way, scaler, x=x)  # type: ignore[operator]
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    assert scaler.get_scale() == SCALE / 2
