"""Steps of agreement on the device: their values, and what they ask of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import domaingrad as dg
from tests.engine import equations
from tests.pretended_cuda.table import WithinTable

from .batches import (
    EQUATIONS,
    NETWORKS,
    RULES,
    WAYS,
    Mixed,
    counts_of,
    mixed,
    mixed_batch,
    separate_gradients,
)


@pytest.mark.parametrize("rule", EQUATIONS)
@pytest.mark.parametrize("way", WAYS)
def test_the_update_is_the_equation_of_separate_passes_on_the_host(way: str, rule: str) -> None:
    host = mixed("MLP", dtype=torch.float64)
    device = host.to("cuda")
    WAYS[way](device, dg.GradientAgreement(device.model, RULES[rule]()))()
    for name, expected in EQUATIONS[rule](separate_gradients(host)).items():
        np.testing.assert_allclose(device.gradients[name].numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("way", WAYS)
def test_agr_rand_draws_only_where_the_domains_disagree(way: str) -> None:
    host = mixed("MLP", dtype=torch.float64)
    device = host.to("cuda")
    WAYS[way](device, dg.GradientAgreement(device.model, dg.AgrRand()))()
    G = separate_gradients(host)
    for name, expected in equations.agr_sum(G).items():
        actual, agreed = device.gradients[name].numpy(), equations.agreeing(G[name])
        np.testing.assert_allclose(actual[agreed], expected[agreed], rtol=1e-9, atol=1e-12)
        assert ((actual != 0) == (np.abs(G[name]).max(0) > 0)).all()


@pytest.mark.parametrize("way", WAYS)
def test_pcgrad_projects_over_all_parameters(way: str) -> None:
    host = mixed("MLP", domains=2, each=6, dtype=torch.float64)
    device = host.to("cuda")
    WAYS[way](device, dg.GradientAgreement(device.model, dg.PCGrad()))()
    for name, expected in equations.pcgrad_of_two(separate_gradients(host)).items():
        np.testing.assert_allclose(device.gradients[name].numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("network", NETWORKS)
def test_plain_training(network: str, within_table: WithinTable) -> None:
    batch = mixed(network).to("cuda")

    def step() -> None:
        batch.model.zero_grad()
        F.cross_entropy(batch.model(batch.x), batch.y).backward()

    within_table(f"{network}: plain training", counts_of(step))


CASES = [
    *(("MLP", way, rule, 3) for way in WAYS for rule in RULES),
    *(("CNN", way, rule, 3) for way in WAYS for rule in ("ANDMask", "PCGrad")),
    *(("ViT", "mixed batch", rule, 3) for rule in ("Mean", "ANDMask", "SANDMask", "PCGrad")),
    *(("ResNet-18", "mixed batch", "ANDMask", domains) for domains in (3, 10)),
    ("ResNet-50", "mixed batch", "ANDMask", 3),
]


@pytest.mark.parametrize(("network", "way", "rule", "domains"), CASES)
def test_agreement(
    network: str, way: str, rule: str, domains: int, within_table: WithinTable
) -> None:
    # Of fewer samples, batch norms of 1 × 1 images make everything of rounding.
    batch = mixed(network, domains, each=4 if network == "ResNet-50" else 2).to("cuda")
    agree = dg.GradientAgreement(batch.model, RULES[rule]())
    counts = counts_of(WAYS[way](batch, agree))
    assert all(gradient.isfinite().all() for gradient in batch.gradients.values())
    within_table(f"{network}: {way}, {rule}, {domains} domains", counts)


def test_domains_on_the_device(within_table: WithinTable) -> None:
    batch = mixed("MLP").to("cuda")
    on_device = Mixed(batch.model, batch.x, batch.y, batch.domain.cuda())
    agree = dg.GradientAgreement(batch.model, dg.ANDMask(tau=0.8))
    within_table("MLP: domains on the device", counts_of(mixed_batch(on_device, agree)))


class Checkpointed(nn.Module):
    """What is between the first and the last layer is computed again in backward."""

    def __init__(self, model: nn.Sequential, use_reentrant: bool) -> None:
        super().__init__()
        self.first, self.middle, self.last = model
        self.use_reentrant = use_reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = checkpoint(self.middle, self.first(x), use_reentrant=self.use_reentrant)
        return self.last(x)


class OfDicts(nn.Module):
    """Takes keywords, gives a dict, as models of transformers do."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor, scale: Tensor) -> dict[str, Tensor]:
        return {"logits": self.model(pixels * scale), "pixels": pixels}


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoints(use_reentrant: bool, within_table: WithinTable) -> None:
    host = mixed("MLP", dtype=torch.float64)
    assert isinstance(host.model, nn.Sequential)
    expected = equations.mean(separate_gradients(host))
    model = Checkpointed(host.model, use_reentrant).cuda()
    batch = Mixed(model, host.x.cuda(), host.y.cuda(), host.domain)
    counts = counts_of(mixed_batch(batch, dg.GradientAgreement(model, dg.Mean())))
    for actual, of in zip(batch.gradients.values(), expected.values(), strict=True):
        np.testing.assert_allclose(actual.numpy(), of, rtol=1e-9, atol=1e-12)
    within_table(f"MLP: checkpoint, use_reentrant={use_reentrant}", counts)


def test_dicts(within_table: WithinTable) -> None:
    host = mixed("MLP", dtype=torch.float64)
    expected = equations.mean(separate_gradients(host))
    batch = host.to("cuda")
    agree = dg.GradientAgreement(OfDicts(batch.model), dg.Mean())
    inputs = {"pixels": batch.x, "scale": torch.ones_like(batch.y, dtype=torch.float64)[:, None]}

    def step() -> None:
        batch.model.zero_grad()
        agree.backward(batch.losses(agree(inputs, batch.domain)["logits"]))

    counts = counts_of(step)
    for name, gradient in batch.gradients.items():
        np.testing.assert_allclose(gradient.numpy(), expected[name], rtol=1e-9, atol=1e-12)
    within_table("MLP: dicts", counts)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype, within_table: WithinTable) -> None:
    scaler = torch.amp.GradScaler("cuda", init_scale=64.0, enabled=dtype == torch.float16)
    batch = replace(mixed("MLP").to("cuda"), autocast=dtype, scaler=scaler)
    agree = dg.GradientAgreement(batch.model, dg.SANDMask(), scaler=scaler)
    optimizer, backward = torch.optim.SGD(batch.model.parameters(), 1e-3), mixed_batch(batch, agree)

    def step() -> None:
        backward()
        scaler.step(optimizer)
        scaler.update()

    within_table(f"MLP: a step of SGD under autocast to {dtype}", counts_of(step))
