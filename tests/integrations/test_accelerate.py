"""A loop of Accelerate whose domains agree: the update of plain passes, alone and among two."""

import os
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

import domaingrad as dg
from domaingrad.integrations.accelerate import AcceleratedAgreement

from ..engine.distributed.processes import in_processes
from .loops import (
    BATCHES,
    MOMENTUM,
    RATE,
    TAU,
    assert_all_take_the_steps,
    assert_close,
    assert_takes_the_steps,
    flat,
    network,
    share,
)

pytestmark = pytest.mark.filterwarnings("ignore")

CASES = {
    "plain": ({}, {}),
    "clipped": ({"clip": 0.05}, {"clip": 0.05}),
    "accumulated": ({"gradient_accumulation_steps": 2}, {"at_once": 2}),
    "bf16": ({"mixed_precision": "bf16"}, {}),
}


def trained(rank=0, world=1, clip=None, rule=None, batches=range(BATCHES), keep=None, **options):
    """All parameters after the batches, by a loop as Accelerate's page has it."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    accelerator = Accelerator(cpu=True, **options)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=MOMENTUM)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    agree = AcceleratedAgreement(accelerator, wrapped, rule or dg.ANDMask(tau=TAU))
    if keep is not None:
        accelerator.register_for_checkpointing(agree)
        if keep.exists():
            accelerator.load_state(keep)
    steps = accelerator.gradient_accumulation_steps
    for index in batches:
        with accelerator.accumulate(wrapped):
            if index == BATCHES - 1 and steps > 1:
                accelerator.gradient_state._set_sync_gradients(True)  # as a prepared loader does
            x, y, domain = share(index, rank, world)
            losses = F.cross_entropy(agree(x, domain), y, reduction="none")
            agree.backward(losses)
            if clip is not None and accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
    if keep is not None:
        accelerator.save_state(keep)
    return flat(model)


def among(rank, world):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    return {name: trained(rank, world, **options) for name, (options, _) in CASES.items()}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return in_processes(among, 2, tmp_path_factory.mktemp("processes"))


@pytest.mark.parametrize("case", CASES)
def test_one_process_takes_the_steps_of_separate_passes(case):
    options, wanted = CASES[case]
    assert_takes_the_steps(trained(**options), case, wanted)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_take_the_steps_of_separate_passes(results, case):
    _, wanted = CASES[case]
    assert_all_take_the_steps(results, case, wanted)


def test_a_saved_state_holds_the_random_state_of_the_rule(tmp_path):
    def noisy():
        return dg.AgrRand(torch.Generator().manual_seed(3))

    whole = trained(rule=noisy())
    trained(rule=noisy(), batches=range(2), keep=tmp_path / "state")
    later = trained(rule=noisy(), batches=range(2, BATCHES), keep=tmp_path / "state")
    assert torch.equal(later, whole)


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_parameters_that_are_spread_are_refused(kind):
    accelerator = SimpleNamespace(distributed_type=SimpleNamespace(value=kind), scaler=None)
    with pytest.raises(dg.AgreementError, match=f"found {kind}. Leave its plugin out"):
        AcceleratedAgreement(accelerator, network(), dg.ANDMask())


def test_the_scale_is_on_the_update_and_not_in_the_rule():
    """SAND-mask depends on the size of the gradients; fp16 itself needs a GPU."""
    updates = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=1024.0)):
        accelerator = SimpleNamespace(
            distributed_type=SimpleNamespace(value="NO"), scaler=scaler,
            gradient_accumulation_steps=1,
        )  # fmt: skip
        model = network()
        agree = AcceleratedAgreement(accelerator, model, dg.SANDMask(tau=0.5))
        x, y, domain = share(0)
        agree.backward(F.cross_entropy(agree(x, domain), y, reduction="none"))
        updates.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert_close(updates[1] / 1024, updates[0])
