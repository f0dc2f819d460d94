"""One run: reproducible, paired across methods, and blind to the held-out domain."""

import dataclasses
import random

import pytest
import torch
from torch.utils.data import TensorDataset

from domaingrad.bench.domains import DATA_SETS
from domaingrad.bench.runs.resumable import Listener
from domaingrad.bench.runs.settings import TrainConfig
from domaingrad.bench.runs.training import train


def config(method="erm", data="linear-toy", steps=12, **settings):
    held_out = settings.pop("hold_out", DATA_SETS[data].held_out[0])
    return TrainConfig(
        data, held_out, method=method, steps=steps, seed=3, accelerator="cpu", **settings
    )


@pytest.fixture
def trained(tmp_path):
    """Train in a directory of its own; what was seen, and what is sealed."""
    count = iter(range(1000))

    def run(run_config, listener=None):
        result = train(run_config, tmp_path / str(next(count)), listener)
        sealed = result.directory.unseal()
        checkpoints = result.directory.checkpoints()
        return checkpoints, [sealed[seen.step] for seen in checkpoints], result

    return run


@pytest.mark.parametrize("method", ["erm", "and-mask", "agr-rand", "pcgrad"])
def test_the_same_run_gives_the_same_numbers_whatever_the_global_state(method, trained):
    first = trained(config(method, "colored-digits"))[:2]
    torch.manual_seed(99)
    random.seed(99)
    torch.rand(7)
    assert trained(config(method, "colored-digits"))[:2] == first


def test_another_trial_and_another_seed_give_other_numbers(trained):
    base = config(data="colored-digits")
    first = trained(base)[:2]
    assert trained(dataclasses.replace(base, trial=1))[:2] != first
    assert trained(dataclasses.replace(base, seed=4))[:2] != first


def test_the_global_generator_and_the_threads_are_left_as_they_were(trained):
    torch.manual_seed(5)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    trained(config())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_methods_start_from_the_same_model_and_batches(trained):
    """The loss of the first step comes before any update, so pairs of runs share it."""
    losses = {
        method: trained(config(method, "spirals", steps=1))[0][0].loss
        for method in ("erm", "and-mask", "pcgrad")
    }
    assert losses["and-mask"] == pytest.approx(losses["erm"], rel=1e-6)  # float32 sums
    assert losses["pcgrad"] == losses["and-mask"]


def test_training_does_not_look_at_the_held_out_domains(monkeypatch, trained):
    run_config = config("erm", "rotated-digits", 20, hold_out="0°", also_hold_out="30°")
    honest = trained(run_config)
    data_set = DATA_SETS["rotated-digits"]

    def sabotaged(generator):
        domains = dict(data_set.make(generator))
        for name in ("0°", "30°"):
            inputs, labels = domains[name].tensors
            domains[name] = TensorDataset(-5 * inputs, 9 - labels)
        return domains

    monkeypatch.setitem(
        DATA_SETS._entries, data_set.name, dataclasses.replace(data_set, make=sabotaged)
    )
    checkpoints, sealed, _ = trained(run_config)
    assert checkpoints == honest[0]
    for name in ("0°", "30°"):
        assert sealed[-1][name] != honest[1][-1][name]


def test_two_domains_held_out_are_both_scored_and_neither_is_a_source(trained):
    pair = config("erm", "rotated-digits", 4, hold_out="0°", also_hold_out="30°", checkpoints=1)
    _, (sealed,), result = trained(pair)
    assert set(sealed) == {"0°", "30°"}
    assert result.model.sources == ("15°", "45°", "60°", "75°")
    assert result.held_out == sealed["0°"]


@pytest.mark.parametrize("second", ["0°", "5°"])
def test_a_second_domain_that_is_none_is_refused(trained, second):
    with pytest.raises(ValueError, match=r"second domain|no domain '5°'"):
        trained(config("erm", "rotated-digits", 4, hold_out="0°", also_hold_out=second))


def test_checkpoints_are_spread_over_the_run_and_end_with_it(trained):
    checkpoints, sealed, _ = trained(config(steps=25))
    assert len(checkpoints) == len(sealed) == 10
    assert checkpoints[-1].step == 25
    assert len(trained(config(steps=3))[0]) == 3


def test_progress_is_told_after_every_step(trained):
    told = []
    trained(config(steps=12), Listener(step=told.append))
    assert [status.step for status in told] == list(range(1, 13))
    assert told[-1].checkpoint.step == 12


def test_what_a_run_warns_of_is_in_its_record(monkeypatch, trained):
    data_set = DATA_SETS["linear-toy"]

    def overflowing(generator):
        return {
            name: TensorDataset(domain.tensors[0] * 1e30, domain.tensors[1])
            for name, domain in data_set.make(generator).items()
        }

    monkeypatch.setitem(
        DATA_SETS._entries, data_set.name, dataclasses.replace(data_set, make=overflowing)
    )
    *_, result = trained(config("and-mask", steps=5))
    assert any("NonFiniteGradientWarning" in text for text in result.warnings)


def test_every_method_learns_rotated_digits(trained):
    """A method whose gradient is lost would stay at guessing, 10 % of ten classes."""
    for method in ("erm", "and-mask", "sand-mask", "agr-sum", "agr-rand", "pcgrad"):
        checkpoints, *_ = trained(config(method, "rotated-digits", steps=60))
        assert checkpoints[-1].val_score > 0.5, method


def test_a_diverged_run_is_told_and_scores_nothing(trained):
    """The argmax of NaN is class 0, which would count as guessing."""
    checkpoints, sealed, result = trained(config("erm", "colored-digits", learning_rate=1e30))
    assert any("the run has diverged" in text for text in result.warnings)
    assert checkpoints[-1].loss is None
    assert sealed[-1].keys() == {"+90%"}
    assert (sealed[-1]["+90%"].score, sealed[-1]["+90%"].oracle_validation) == (0.0, 0.0)


def test_the_hyperparameters_of_the_config_are_those_that_train(trained):
    strict = config("and-mask", "spirals", steps=5)
    loose = dataclasses.replace(strict, hyperparameters={"tau": 0.0})
    assert trained(strict)[:2] != trained(loose)[:2]
