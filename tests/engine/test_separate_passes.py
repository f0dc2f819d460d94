"""Both ways against plain autograd and the equations, on every problem and rule."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

import domaingrad as dg
from domaingrad.engine.blocks import block
from domaingrad.engine.graph.engine import GraphEngine

from . import equations
from .equations import Stacks, Updates
from .problems import LABELS, PROBLEMS, RANDOM, UNFIT, Problem
from .separate_passes import WAYS, Agreed, Way, agreed_gradients, reference_and_copy

Case = tuple[Callable[[], dg.rules.Rule], Callable[[Stacks], Updates]]

RULES: dict[str, Case] = {
    "mean": (dg.Mean, equations.mean),
    "and": (lambda: dg.ANDMask(1.0, rescale=False), equations.and_mask(1.0, False)),
    "and, 3 of 4": (lambda: dg.ANDMask(0.5, rescale=False), equations.and_mask(0.5, False)),
    "and, rescaled": (lambda: dg.ANDMask(1.0), equations.and_mask(1.0, True)),
    # k = 0.1 leaves masks between 0 and 1 at these gradient sizes; DomainBed's 10 rarely does.
    "sand": (lambda: dg.SANDMask(0.4, 0.1), equations.sand_mask(0.4, 0.1)),
    "agr-sum": (dg.AgrSum, equations.agr_sum),
}
# Each parameter's gradients by themselves, as those of large ones are; else small ones together.
ALONE = {"mean", "and", "sand"}
# Their scale counts the components that hold rounding noise.
SCALED = {"and, rescaled", "sand"}

# Two computations of the same passes differ in the rounding of the loss's mean only, 1e-16. The
# variance of SAND and the projection of PCGrad amplify it by (mean/std)², here below 1e5.
RTOL = 1e-9
# Below it lies the rounding noise of components whose true gradient is zero.
ATOL = 1e-12


def compare(actual: dict[str, torch.Tensor | None], expected: Updates) -> None:
    for name, update in actual.items():
        if name not in expected:
            assert update is None, f"{name} is used by no domain or frozen"
            continue
        assert update is not None, name
        np.testing.assert_allclose(
            update.numpy(), expected[name], rtol=RTOL, atol=ATOL, err_msg=name
        )


# One pass draws other random numbers than several do.
CASES = [
    (problem, way)
    for problem in PROBLEMS
    for way in WAYS
    if not (way == "single pass" and problem in RANDOM | UNFIT.keys())
]


@pytest.mark.parametrize(("problem", "way"), CASES)
def test_updates_are_the_equations_of_separate_passes(
    problem: str, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradients, _, model = reference_and_copy(PROBLEMS[problem], way)
    agreed = Agreed(PROBLEMS[problem], model, way)
    for rule, (make, equation) in RULES.items():
        expected = equation(gradients)
        with monkeypatch.context() as patch:
            if rule in ALONE:
                patch.setattr(block, "SMALL", -1)
            actual = agreed(make())
        if rule in SCALED:
            for name in PROBLEMS[problem].rounding_noise:
                del actual[name], expected[name]
        compare(actual, expected)
    agr_rand(gradients, agreed(dg.AgrRand()))


@pytest.mark.parametrize(("problem", "way"), CASES)
def test_pcgrad_projects_over_all_parameters_together(problem: str, way: Way) -> None:
    two = PROBLEMS[problem].only(LABELS[0], LABELS[2])
    gradients, _, model = reference_and_copy(two, way)
    compare(agreed_gradients(two, model, dg.PCGrad(), way), equations.pcgrad_of_two(gradients))


# With as many samples of each domain, the number of samples is that of something else in it.
AMBIGUOUS = {"a penalty as an output"}


@pytest.mark.parametrize(
    "problem", [p for p in PROBLEMS if p not in RANDOM | UNFIT.keys() | AMBIGUOUS]
)
def test_domains_of_equal_size_may_take_turns(
    problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: with any model here, whether that pays or not."""
    monkeypatch.setattr(GraphEngine, "_order", lambda _, batch, inputs: batch.by_turns)
    balanced = PROBLEMS[problem].balanced
    gradients, passed, model = reference_and_copy(balanced, "single pass")
    compare(agreed_gradients(balanced, model, dg.Mean(), "single pass"), equations.mean(gradients))
    if "checkpoint" in problem:  # moves statistics twice in a plain pass, and once here
        return
    for (name, expected), actual in zip(passed.named_buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=RTOL, atol=ATOL, msg=name)


@pytest.mark.parametrize("way", WAYS)
def test_pcgrad_of_conflicting_domains(way: Way) -> None:
    labels = torch.tensor([0, 1]).repeat(4)
    inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)).double()
    conflicting = Problem(
        PROBLEMS["mlp"].build, inputs, labels, labels, PROBLEMS["mlp"].losses
    )  # each domain holds one class only
    gradients, _, model = reference_and_copy(conflicting)
    flat = np.concatenate([g.reshape(2, -1) for g in gradients.values()], axis=1)
    assert flat[0] @ flat[1] < 0
    tensors_that_agree = [name for name, g in gradients.items() if (g[0] * g[1]).sum() > 0]
    assert tensors_that_agree, "else a projection of each tensor by itself could pass"
    compare(
        agreed_gradients(conflicting, model, dg.PCGrad(), way), equations.pcgrad_of_two(gradients)
    )


def agr_rand(gradients: Stacks, actual: dict[str, torch.Tensor | None]) -> None:
    """A sum where the domains agree, and a draw of the right size elsewhere."""
    used = {name: update for name, update in actual.items() if update is not None}
    assert used.keys() == gradients.keys()
    scale = equations.agr_rand_scale(gradients)
    for name, g in gradients.items():
        update = used[name].numpy()
        # Rounding noise may agree in one computation and not in the other.
        exact = np.abs(g).max(0) > ATOL
        agreeing, silent = equations.agreeing(g) & exact, (g == 0).all(0)
        np.testing.assert_allclose(update[agreeing], g.sum(0)[agreeing], rtol=RTOL, err_msg=name)
        assert (update[silent] == 0).all()
        drawn = update[~equations.agreeing(g) & exact]
        # P(|N(0, 1)| > 6) = 2e-9 and P(|N(0, 1)| < 1e-6) = 8e-7.
        assert (np.abs(drawn) < 6 * scale).all()
        assert (np.abs(drawn) > 1e-6 * scale).all()


@pytest.mark.parametrize("problem", ["mlp", "group norm", "batch norm", "recurrent"])
def test_the_problems_put_the_rules_to_work(problem: str) -> None:
    """Were all signs alike or all masks empty, the comparisons above would show little."""
    gradients, _, _ = reference_and_copy(PROBLEMS[problem])
    kept = np.concatenate([equations.agreeing(g).ravel() for g in gradients.values()])
    assert 0.02 < kept.mean() < 0.9
    m = equations.sand_mask(0.4, 0.1)(gradients)
    relative = np.concatenate(
        [(np.abs(m[name]) / (np.abs(g.mean(0)) + 1e-300)).ravel() for name, g in gradients.items()]
    )
    assert len(np.unique(relative.round(6))) > 10, "the SAND mask takes values between 0 and 1"


def test_the_two_ways_are_equal_to_the_last_bit_but_for_the_loss_mean() -> None:
    """The same rule with the same seed draws the same noise in both ways."""
    updates = []
    for way in ("mixed batch", "domain by domain"):
        _, _, model = reference_and_copy(PROBLEMS["mlp"])
        updates.append(agreed_gradients(PROBLEMS["mlp"], model, dg.AgrRand(), way))
    for name in updates[0]:
        torch.testing.assert_close(updates[0][name], updates[1][name], rtol=RTOL, atol=ATOL)
