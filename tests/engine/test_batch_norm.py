"""BatchNorm in training mode: each domain by itself, in the order of the labels."""

import pytest
import torch

import domaingrad as dg

from .problems import LABELS, PROBLEMS
from .separate_passes import (
    WAYS,
    Way,
    agreed_gradients,
    model_of,
    reference_and_copy,
    separate_gradients,
)


@pytest.mark.parametrize("way", WAYS)
def test_running_statistics_move_once_per_domain_in_order_of_label(way: Way) -> None:
    _, moved, model = reference_and_copy(PROBLEMS["batch norm"])
    agreed_gradients(PROBLEMS["batch norm"], model, dg.Mean(), way)
    expected, actual = dict(moved.named_buffers()), dict(model.named_buffers())
    assert actual["1.num_batches_tracked"] == len(LABELS)
    for name, buffer in expected.items():
        # The same passes in the same order: the same numbers.
        assert torch.equal(actual[name], buffer), name


def test_order_of_domains_shows_in_the_running_statistics() -> None:
    """Else the test above could not tell one order from another."""
    problem = PROBLEMS["batch norm"]
    in_order, reversed_order = model_of(problem), model_of(problem)
    separate_gradients(problem, in_order)
    for label in reversed(problem.labels):
        reversed_order(problem.inputs[problem.domain == label])
    assert not torch.allclose(in_order[1].running_mean, reversed_order[1].running_mean)


def test_normalising_the_mixed_batch_at_once_gives_another_update() -> None:
    """Else per-domain statistics would not be tested by the comparison with separate passes."""
    problem = PROBLEMS["batch norm"]
    gradients, _, model = reference_and_copy(problem)
    outputs = model(problem.inputs)
    rows = problem.domain == LABELS[0]
    problem.losses(outputs, problem.targets)[rows].mean().backward()
    separate = torch.from_numpy(gradients["8.weight"][0])
    assert not torch.allclose(model[8].weight.grad, separate, rtol=1e-2)


@pytest.mark.parametrize("way", WAYS)
def test_eval_mode_leaves_the_running_statistics(way: Way) -> None:
    _, _, model = reference_and_copy(PROBLEMS["batch norm in eval mode"])
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    agreed_gradients(PROBLEMS["batch norm in eval mode"], model, dg.Mean(), way)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name
