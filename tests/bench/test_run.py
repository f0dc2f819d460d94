"""One run: reproducible, paired across methods, and blind to the held-out domain."""

import dataclasses
import random

import pytest
import torch
from torch.utils.data import TensorDataset

from domaingrad.bench.domains import DATA_SETS
from domaingrad.bench.runs import HeldOutScores, RunConfig, plan, train


def config(method: str = "erm", data: str = "linear-toy", steps: int = 12, trial: int = 0):
    runs = plan([data], [method], trials=trial + 1, seed=3, steps=steps).runs
    return runs[-1]


def silent(step, checkpoint):
    """No news."""


def scores(run_config: RunConfig):
    record, held_out = train(run_config, silent)
    return record.checkpoints, held_out.scores


@pytest.mark.parametrize("method", ["erm", "and-mask", "agr-rand", "pcgrad"])
def test_the_same_run_gives_the_same_numbers_whatever_the_global_state(method):
    first = scores(config(method, "colored-digits"))
    torch.manual_seed(99)
    random.seed(99)
    torch.rand(7)
    assert scores(config(method, "colored-digits")) == first


def test_another_trial_and_another_seed_give_other_numbers():
    base = config(data="colored-digits")
    assert scores(base) != scores(dataclasses.replace(base, trial=1))
    assert scores(base) != scores(dataclasses.replace(base, seed=4))


def test_the_global_generator_and_the_threads_are_left_as_they_were():
    torch.manual_seed(5)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    train(config(), silent)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_methods_start_from_the_same_model_and_batches():
    """The loss of the first step comes before any update, so pairs of runs share it."""
    losses = {
        method: train(config(method, "spirals", steps=1), silent)[0].checkpoints[0].loss
        for method in ("erm", "and-mask", "pcgrad")
    }
    assert losses["and-mask"] == pytest.approx(losses["erm"], rel=1e-6)  # float32 sums
    assert losses["pcgrad"] == losses["and-mask"]


def test_training_does_not_look_at_the_held_out_domain(monkeypatch):
    honest = scores(config("and-mask", "colored-digits", steps=20))
    data_set = DATA_SETS["colored-digits"]
    run_config = config("and-mask", "colored-digits", steps=20)

    def sabotaged(generator):
        domains = dict(data_set.make(generator))
        inputs, labels = domains[run_config.held_out].tensors
        domains[run_config.held_out] = TensorDataset(-5 * inputs, 1 - labels)
        return domains

    monkeypatch.setitem(DATA_SETS, data_set.name, dataclasses.replace(data_set, make=sabotaged))
    checkpoints, accuracies = scores(run_config)
    assert checkpoints == honest[0]
    assert accuracies != honest[1]


def test_checkpoints_are_spread_over_the_run_and_end_with_it():
    record, held_out = train(config(steps=25), silent)
    steps = [checkpoint.step for checkpoint in record.checkpoints]
    assert len(steps) == len(held_out.scores) == 10
    assert steps[-1] == 25
    assert len(train(config(steps=3), silent)[0].checkpoints) == 3


def test_progress_is_told_after_every_step():
    told = []
    train(config(steps=12), lambda step, checkpoint: told.append((step, checkpoint)))
    assert [step for step, _ in told] == list(range(1, 13))
    assert told[-1][1].step == 12


def test_what_a_run_warns_of_is_in_its_record(monkeypatch):
    data_set = DATA_SETS["linear-toy"]

    def overflowing(generator):
        return {
            name: TensorDataset(domain.tensors[0] * 1e30, domain.tensors[1])
            for name, domain in data_set.make(generator).items()
        }

    monkeypatch.setitem(DATA_SETS, data_set.name, dataclasses.replace(data_set, make=overflowing))
    record, _ = train(config("and-mask", steps=5), silent)
    assert any("NonFiniteGradientWarning" in text for text in record.warnings)


def test_every_method_learns_rotated_digits():
    """A method whose gradient is lost would stay at guessing, 10 % of ten classes."""
    for method in ("erm", "and-mask", "sand-mask", "agr-sum", "agr-rand", "pcgrad"):
        record, _ = train(config(method, "rotated-digits", steps=60), silent)
        assert record.checkpoints[-1].val_score > 0.5, method


def test_the_key_of_a_run_changes_with_all_that_decides_its_numbers():
    base = config()
    changes = {
        "data": "spirals", "method": "pcgrad", "held_out": "x", "trial": 7, "seed": 8,
        "steps": 9, "hyperparameters": {"tau": 0.5}, "recipe": "another", "code": "changed",
    }  # fmt: skip
    assert set(changes) == {field.name for field in dataclasses.fields(RunConfig)}
    keys = {base.key} | {
        dataclasses.replace(base, **{name: value}).key for name, value in changes.items()
    }
    assert len(keys) == len(changes) + 1


def test_a_diverged_run_is_told_and_scores_nothing(monkeypatch):
    """The argmax of NaN is class 0, which would count as guessing."""
    data_set = DATA_SETS["colored-digits"]
    recipe = dataclasses.replace(data_set.recipe, learning_rate=1e30)
    monkeypatch.setitem(DATA_SETS, data_set.name, dataclasses.replace(data_set, recipe=recipe))
    record, held_out = train(config("erm", "colored-digits", steps=12), silent)
    assert any("the run has diverged" in text for text in record.warnings)
    assert record.checkpoints[-1].loss is None
    assert held_out.scores[-1] == HeldOutScores(0.0, 0.0)


def test_the_hyperparameters_of_the_config_are_those_that_train():
    strict = config("and-mask", "spirals", steps=5)
    loose = dataclasses.replace(strict, hyperparameters={"tau": 0.0})
    assert scores(strict) != scores(loose)
