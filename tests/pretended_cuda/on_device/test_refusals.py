"""What CUDA would refuse is refused in the midst of a step, too, and the next step is right."""

import pytest
import torch

import domaingrad as dg

from .batches import Mixed, mixed


@pytest.fixture
def batch() -> Mixed:
    return mixed("MLP").to("cuda")


def test_inputs_left_on_the_host(batch: Mixed) -> None:
    agree = dg.GradientAgreement(batch.model, dg.Mean())
    with pytest.raises(RuntimeError, match="device"):
        agree(batch.x.cpu(), batch.domain)
    agree.backward(batch.losses(agree(batch.x, batch.domain)))
    assert batch.gradients


def test_targets_left_on_the_host(batch: Mixed) -> None:
    agree = dg.GradientAgreement(batch.model, dg.Mean())
    forgotten = Mixed(batch.model, batch.x, batch.y.cpu(), batch.domain)
    with pytest.raises(RuntimeError, match="device"):
        forgotten.losses(agree(batch.x, batch.domain))


def test_a_layer_left_on_the_host(batch: Mixed) -> None:
    batch.model[-1].cpu()  # type: ignore[index]
    agree = dg.GradientAgreement(batch.model, dg.Mean(), engine="streaming")
    with pytest.raises(RuntimeError, match="device"):
        agree(batch.x, batch.domain)


def test_gradients_of_the_host_added_to_those_of_the_device(batch: Mixed) -> None:
    parameter = next(batch.model.parameters())
    with pytest.raises((RuntimeError, TypeError), match="device"):
        parameter.grad = torch.zeros(parameter.shape)


@pytest.mark.parametrize("rule", [dg.AgrRand, dg.PCGrad])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_rules_draw_by_a_generator_of_either_device(
    rule: type[dg.AgrRand | dg.PCGrad], device: str, batch: Mixed
) -> None:
    def update() -> dict[str, torch.Tensor]:
        generator = torch.Generator(device).manual_seed(3)
        agree = dg.GradientAgreement(batch.model, rule(generator))
        batch.model.zero_grad()
        agree.backward(batch.losses(agree(batch.x, batch.domain)))
        return batch.gradients

    first, second = update(), update()
    assert all(torch.equal(first[name], second[name]) for name in first)
