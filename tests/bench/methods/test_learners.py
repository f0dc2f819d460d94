"""Every method: what it moves, that its state is kept, and that nothing undeclared is lost."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from domaingrad.bench.methods import METHODS, Learner, Method, MethodInfo, pooled
from domaingrad.bench.methods.erm import ERMLearner
from domaingrad.bench.schema import SettingError

from .harness import (
    INPUTS,
    advance,
    batches,
    kind_of,
    learner,
    loss,
    moved,
    network,
    parameters,
    soon,
)
from .sketches import SKETCHES

EVERY = {**METHODS, **SKETCHES}
HEAD = {f"network.classifier.{n}" for n in ("weight", "bias")}
BESIDE = {
    "dann": {"discriminator"},
    "cdann": {"discriminator", "classes"},
    "sagnet": {"style"},
    "mtl": {"model"},
    "arm": {"model"},
    "selfreg": {"projection"},
    "urm": {"model", "discriminator"},
    "miro": {"oracle", "variances"},
    "transfer": {"adversary"},
    "fish": {"inner"},
    "pogm": {"clones"},
    "swad": {"average"},
}
"""Modules that a method has beside the network."""
STILL = {
    # MTL's classifier sees the domain's mean, so the network's own has nothing to do.
    "mtl": lambda place: place.removeprefix("model.") in HEAD,
    "miro": lambda place: place.startswith("oracle."),
    "arm": lambda _: False,
    "arm-published": lambda place: (
        place.startswith("model.context") and place.endswith(("weight", "bias"))
    ),
    "selfreg-published": lambda place: (
        place.startswith("projection") and place.endswith(("weight", "bias"))
    ),
}
"""What is not to move, as far as that is not nothing."""


@pytest.mark.parametrize("name", EVERY)
def test_after_four_steps_everything_that_is_to_be_trained_has_moved(name):
    plain = name.removesuffix("-published")
    made, optimizers = learner(soon(EVERY[name]))
    before = parameters(made)
    advance(made, optimizers, 4)
    still = before.keys() - moved(made, before)
    is_still = STILL.get(name, STILL.get(plain, lambda _: False))
    assert still == {place for place in before if is_still(place)}
    beside = {place.partition(".")[0] for place in before}
    assert beside == {"network", *BESIDE.get(plain, ())}


@pytest.mark.parametrize("name", EVERY)
def test_state_survives_save_and_load_to_the_bit(name, tmp_path):
    """With a schedule that moves learning rates and momenta."""
    method = soon(EVERY[name], at=5)
    whole, following = learner(method, schedule="one-cycle")
    advance(whole, following, 3)
    state = {
        "learner": whole.state_dict(),
        "optimizers": following.state_dict(),
        "generator": whole.setup.generator.get_state(),
    }
    torch.save(state, tmp_path / "state.pt")
    again, optimizers = learner(method, schedule="one-cycle")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    again.load_state_dict(state["learner"])
    optimizers.load_state_dict(state["optimizers"])
    again.setup.generator.set_state(state["generator"])
    for made, own in ((whole, following), (again, optimizers)):
        torch.manual_seed(3)  # of models that draw, which the run keeps
        advance(made, own, 4)
    assert again.step == whole.step == 7
    assert not moved(again, parameters(whole))
    x, _, _ = pooled(batches(9, kind=kind_of(method)))
    outputs = []
    for made in (again, whole):
        torch.manual_seed(0)  # of a predictor that draws
        outputs.append(made.predictor().eval()(x))
    assert torch.equal(*outputs)
    assert again.metrics() == whole.metrics()


def test_erm_is_one_step_of_adam_on_the_pooled_mean():
    made, optimizers = learner(METHODS["erm"], weight_decay=0.1)
    reference = network()
    adam = torch.optim.Adam(reference.parameters(), 1e-2, weight_decay=0.1)
    for step in range(3):
        x, y, _ = pooled(batches(step))
        adam.zero_grad()
        loss(reference(x), y).mean().backward()
        adam.step()
    advance(made, optimizers, 3)
    for own, its in zip(made.network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(own, its)


@pytest.mark.parametrize("schedule", ["one-cycle", "exponential"])
def test_optimizers_follow_the_schedule_whenever_they_are_made(schedule):
    """PyTorch's own schedule on an optimizer that is there from the first step."""
    made, optimizers = learner(METHODS["erm"], schedule=schedule)
    reference = torch.optim.Adam([torch.zeros(1, requires_grad=True)], 1e-2)
    if schedule == "one-cycle":
        its = torch.optim.lr_scheduler.OneCycleLR(reference, 1e-2, total_steps=51)
    else:
        its = torch.optim.lr_scheduler.ExponentialLR(reference, 0.9995)
    for step in range(6):
        late = optimizers(network().parameters(), learning_rate=3e-2, betas=(0.5, 0.9))
        (group,), (leader,) = made.optimizer.param_groups, reference.param_groups
        assert group["lr"] == pytest.approx(leader["lr"], rel=1e-12), step
        assert group["betas"] == leader["betas"], step
        assert late.param_groups[0]["lr"] == pytest.approx(3 * leader["lr"])
        assert late.param_groups[0]["betas"] == (0.5, 0.9)
        advance(made, optimizers, 1)
        reference.step()
        its.step()


@dataclass(frozen=True)
class Careless(Method):
    info = MethodInfo("careless", "Careless", "", "")
    code: type = ERMLearner


def careless(attribute, value):
    class CarelessLearner(ERMLearner):
        def build(self):
            setattr(self, attribute, value)

        def update(self, given):
            setattr(self, attribute, getattr(self, attribute) + 1)
            return super().update(given)

    return Careless(CarelessLearner)


@pytest.mark.parametrize("value", [0, torch.zeros(2)])
def test_state_that_no_checkpoint_would_hold_is_refused(value):
    made, optimizers = learner(careless("q", value))
    advance(made, optimizers, 1)
    with pytest.raises(TypeError, match=r"state that no checkpoint would hold: q.*self\.keep"):
        made.state_dict()


def test_a_module_of_a_subclass_is_trained_without_a_word():
    """In DomainBed what is made after the optimizer is never trained (ARM, SelfReg)."""

    class Wider(Learner[Method]):
        def build(self):
            self.before = nn.Linear(INPUTS, INPUTS)

        def objective(self, given):
            x, y, _ = pooled(given)
            return self.setup.loss(self.network(self.before(x)), y).mean()

    made, optimizers = learner(Careless(Wider))
    before = parameters(made)
    advance(made, optimizers, 1)
    assert {"before.weight", "before.bias"} <= moved(made, before)


def test_a_restart_is_a_fresh_optimizer():
    made, optimizers = learner(METHODS["erm"])
    advance(made, optimizers, 3)
    assert made.optimizer.state
    made.restart(made.optimizer)
    assert not made.optimizer.state
    fresh = torch.optim.Adam(reference := list(network().parameters()), 1e-2)
    for own, its in zip(made.network.parameters(), reference, strict=True):
        its.data.copy_(own)
    x, y, _ = pooled(batches(3))
    (g,) = [torch.autograd.grad(loss(made.network(x), y).mean(), list(made.network.parameters()))]
    for parameter, gradient in zip(reference, g, strict=True):
        parameter.grad = gradient
    fresh.step()
    advance(made, optimizers, 1)
    for own, its in zip(made.network.parameters(), reference, strict=True):
        torch.testing.assert_close(own, its)


def test_the_new_method_of_the_tutorial_trains():
    """Its block as printed, but for its registration."""
    page = (Path(__file__).parents[3] / "docs" / "tutorials" / "new_method.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (block,) = [each for each in blocks if "@register.method" in each]
    scope = {"__name__": __name__}
    exec(block.replace("@register.method\n", ""), scope)
    made, optimizers = learner(scope["Range"]())
    advance(made, optimizers, 2)
    assert made.metrics()["penalty"] > 0
    with pytest.raises(
        SettingError, match=r"weight of range should be ≥ 0 and ≤ 1e\+06, for a neg"
    ):
        scope["Range"](weight=-1.0)
