"""A LightningModule whose domains agree: under one process and DDP, the update of plain passes."""

import copy
import os
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import domaingrad as dg
from domaingrad.integrations.lightning import AgreementMixin

from .. import conftest  # noqa: F401 - Lightning imports torchvision
from ..engine.distributed.processes import in_processes
from .loops import (
    BATCHES,
    MOMENTUM,
    RATE,
    TAU,
    assert_all_take_the_steps,
    assert_takes_the_steps,
    flat,
    network,
    share,
)

pytestmark = pytest.mark.filterwarnings("ignore")

CASES = {
    "plain": ({}, {}),
    "clipped": ({"gradient_clip_val": 0.05}, {"clip": 0.05}),
    "accumulated": ({"accumulate_grad_batches": 2}, {"at_once": 2}),
    "bf16": ({"precision": "bf16-mixed"}, {}),
}
UNUSED = {"strategy": "ddp_find_unused_parameters_true"}
AMONG_TWO = {
    "streaming": {"engine": "streaming"},
    "single pass": {"engine": "single-pass"},
}


def lightning():
    import lightning as L

    return L


def module(rule=None, network=network, **options):
    L = lightning()

    class Classifier(AgreementMixin, L.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = network()
            if rule != "none":
                self.agree_by(rule or dg.ANDMask(tau=TAU), **options)

        def forward(self, x):
            return self.network(x)

        def training_step(self, batch, batch_idx):
            x, y, domain = batch
            losses = F.cross_entropy(self.agree(x, domain), y, reduction="none")
            self.log("loss", losses.mean())
            return losses

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), RATE, momentum=MOMENTUM)

    return Classifier()


def trainer(**options):
    quiet = {
        "use_distributed_sampler": False,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
    }
    options = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, **quiet} | options
    return lightning().Trainer(enable_model_summary=False, barebones=False, **options)


def loader(rank=0, world=1):
    own = [share(index, rank, world) for index in range(BATCHES)]
    return torch.utils.data.DataLoader(own, batch_size=None)


def fitted(rank=0, world=1, classifier=None, **options):
    classifier = classifier or module()
    if world > 1:
        options = {"devices": world, "strategy": "ddp"} | options
    own = trainer(**options)
    own.fit(classifier, loader(rank, world))
    return flat(classifier), own


def among(rank, world):
    os.environ["LOCAL_RANK"] = str(rank)
    found = {name: fitted(rank, world, **options)[0] for name, (options, _) in CASES.items()}
    for name, options in AMONG_TWO.items():
        found[name] = fitted(rank, world, module(**options))[0]
    found["unused allowed"] = fitted(rank, world, **UNUSED)[0]
    manual = module()
    manual.automatic_optimization = False
    try:
        fitted(rank, world, manual)
    except dg.AgreementError as error:
        found["manual"] = str(error)
    return found


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return in_processes(among, 2, tmp_path_factory.mktemp("processes"))


@pytest.mark.parametrize("case", CASES)
def test_one_process_takes_the_steps_of_separate_passes(case):
    options, wanted = CASES[case]
    found, own = fitted(**options)
    assert_takes_the_steps(found, case, wanted)
    assert own.callback_metrics["loss"] > 0


@pytest.mark.parametrize("case", [*CASES, *AMONG_TWO, "unused allowed"])
def test_two_processes_take_the_steps_of_separate_passes(results, case):
    _, wanted = CASES.get(case, ({}, {}))
    assert_all_take_the_steps(results, case, wanted)


def test_manual_optimisation_is_refused(results):
    for result in results:
        assert "works with automatic optimisation" in result["manual"]


def test_a_checkpoint_holds_the_random_state_of_the_rule(tmp_path):
    def noisy():
        return module(dg.AgrRand(torch.Generator().manual_seed(3)))

    whole, _ = fitted(classifier=noisy(), max_epochs=2)
    _, own = fitted(classifier=noisy())
    own.save_checkpoint(tmp_path / "half.ckpt")
    later = noisy()
    trainer(max_epochs=2).fit(later, loader(), ckpt_path=tmp_path / "half.ckpt")
    assert torch.equal(flat(later), whole)


def test_a_copy_is_bound_to_its_own_model():
    classifier = module()
    fitted(classifier=classifier)
    assert copy.deepcopy(classifier)._agreement is None
    assert classifier._agreement is not None


def test_a_second_trainer_is_followed():
    classifier = module()
    fitted(classifier=classifier)
    fitted(classifier=classifier)
    assert classifier.agree.model is classifier.trainer.strategy.model


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"rule": "none"}, dg.AgreementError, "there is no rule to agree by"),
        ({"reduction": "mean"}, ValueError, "one loss per sample"),
        ({"without": True}, dg.AgreementError, "needs outputs of agree"),
    ],
)
def test_what_would_be_silently_wrong_is_refused(change, error, said):
    classifier = module(change.get("rule"))
    if "reduction" in change:
        step = classifier.training_step
        classifier.training_step = lambda *given: step(*given).mean()
    if "without" in change:
        classifier.training_step = lambda *given: classifier(given[0][0]).square().mean(1)
    with pytest.raises(error, match=said):
        fitted(classifier=classifier)


def test_strategies_that_split_the_model_are_refused():
    classifier = module()
    strategy = SimpleNamespace(model=nn.Linear(2, 2))
    classifier._trainer = SimpleNamespace(strategy=strategy)
    with pytest.raises(dg.AgreementError, match=r"found a Linear of.*strategy='ddp'"):
        classifier.agree  # noqa: B018 - looked up
