"""Runs that train together: the same numbers as alone, whatever each is, and whatever ends."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.optim import SGD, Adam, AdamW

from domaingrad.bench import SweepConfig, plan_sweep, sweep
from domaingrad.bench.domains import News
from domaingrad.bench.methods import erm
from domaingrad.bench.protocol import Split, drawn_ahead, drawn_rows, generator_of
from domaingrad.bench.runs import Bundle, Failed, Finished, Lost, SweepDirectory
from domaingrad.bench.runs.attempts import attempt, places_of
from domaingrad.bench.runs.bundling import _steps_alike
from domaingrad.bench.runs.events import ATTEMPTS, Apart, Undone
from domaingrad.bench.runs.resumable import begin
from domaingrad.bench.runs.settings import TrainConfig, resolved
from domaingrad.bench.runs.stacked import Stack
from domaingrad.bench.runs.stacked_optimizers import Moments
from domaingrad.bench.runs.trainer import Trainer
from domaingrad.bench.runs.training import data_of

TOGETHER = (
    "erm", "and-mask", "sand-mask", "agr-sum", "agr-rand", "pcgrad",
    "irm", "vrex", "groupdro", "eqrm", "eqrm-published", "coral", "mmd", "sd", "fishr",
)  # fmt: skip
STEPS, CHECKPOINTS = 12, 3


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    """Embeddings of three classes in four domains of different sizes."""
    generator = np.random.default_rng(0)
    sizes = {"a": 60, "b": 75, "c": 50, "d": 90}
    domain = np.repeat(list(sizes), list(sizes.values()))
    label = generator.integers(0, 3, len(domain))
    centres = generator.normal(size=(3, 6))
    x = centres[label] + generator.normal(size=(len(domain), 6))
    path = tmp_path_factory.mktemp("vectors") / "vectors.npz"
    np.savez(path, x=x.astype("f4"), label=label, domain=domain)
    return str(path)


def settings(data, method, **more):
    """Of six runs, which differ in all that runs of one stack may differ in."""
    numbers = {
        "and-mask": [{"tau": tau} for tau in (0.3, 0.5, 1.0)],
        "sand-mask": [{"tau": tau, "k": k} for tau, k in ((0.1, 1.0), (0.5, 100.0), (0.9, 1e4))],
        "irm": [{"weight": w, "anneal": at} for w, at in ((1.0, 3), (10.0, 5), (100.0, 7))],
        "vrex": [{"weight": w, "anneal": at} for w, at in ((1.0, 3), (10.0, 5), (100.0, 7))],
        "fishr": [{"ema": ema, "anneal": at} for ema, at in ((0.9, 3), (0.95, 5), (0.99, 7))],
        "eqrm": [{"alpha": a, "anneal": at} for a, at in ((0.6, 3), (0.75, 5), (0.9, 7))],
        "eqrm-published": [{"alpha": a, "anneal": at} for a, at in ((0.6, 3), (0.75, 5), (0.9, 7))],
        "groupdro": [{"eta": eta} for eta in (0.01, 0.1, 1.0)],
    }.get(method, [{}] * 3)
    runs = (("a", 10, 1e-2), ("b", 9, 3e-3), ("d", 10, 1e-2), ("a", 10, 1e-2))
    for place, (held_out, batch, rate) in enumerate(runs):
        yield TrainConfig(
            data, held_out, method=method, hyperparameters=numbers[place % 3], trial=place // 2,
            batch=batch, learning_rate=rate, weight_decay=0.1 * place, checkpoints=CHECKPOINTS,
            accelerator="cpu", **{"steps": STEPS + 2 * (place % 2)} | more,
        )  # fmt: skip


def trainers(data, method, **more):
    read = data_of(TrainConfig(data, None), News())
    configs = [resolved(config, read) for config in settings(data, method, **more)]
    return [begin(config, read).trainer for config in configs]


def alone(trainer):
    """Checkpoints of a run by itself."""
    found = []
    while trainer.until_checkpoint:
        if trainer.step():
            found.append(trainer.checkpoint())
    return found


def together(made):
    """The same of runs in one stack, in their order."""
    found = {id(each): [] for each in made}
    stack = Stack(made)
    while stack is not None:
        due = stack.step()
        for row, outputs, agreement in stack.evaluated(due) if due else ():
            trainer = stack.trainers[row]
            found[id(trainer)].append(trainer.judged(outputs, agreement))
        if over := {row for row in due if not stack.trainers[row].until_checkpoint}:
            stack = stack.of([row for row in stack.rows if row not in over])
    return [found[id(each)] for each in made]


def state_of(trainer):
    """All that a run goes on from, flat."""
    found = {}

    def take(place, value):
        if isinstance(value, dict):
            for name, each in value.items():
                take(f"{place}.{name}", each)
        elif isinstance(value, (list, tuple)):
            for number, each in enumerate(value):
                take(f"{place}.{number}", each)
        else:
            found[place] = value

    take("", trainer.state_dict())
    return found


QUICK = ("erm", "and-mask", "agr-rand", "irm", "groupdro", "coral")


@pytest.mark.parametrize(
    ("method", "head"),
    [
        *(
            pytest.param(each, "mlp", marks=[] if each in QUICK else pytest.mark.slow)
            for each in TOGETHER
        ),
        ("erm", "linear"),
    ],
)
def test_every_run_of_a_stack_comes_to_the_numbers_that_it_comes_to_alone(vectors, method, head):
    """Scores and states, with other held-out domains, trials, batches, rates, numbers and steps.

    By SGD, since Adam makes steps of one size of gradients that are rounding alone.
    """
    recipe = {"head": head, "optimizer": "sgd", "momentum": 0.9, "schedule": "constant"}
    single, stacked = (trainers(vectors, method, **recipe) for _ in range(2))
    expected, found = [alone(each) for each in single], together(stacked)
    for one, other in zip(expected, found, strict=True):
        for (seen, sealed, _), (told, opened, _) in zip(one, other, strict=True):
            assert (told.step, told.val_score) == (seen.step, seen.val_score)
            assert told.loss == pytest.approx(seen.loss, rel=1e-5)
            assert told.agreement == pytest.approx(seen.agreement, abs=0.01)
            assert told.metrics == pytest.approx(seen.metrics, rel=1e-3, abs=1e-6)
            assert opened == sealed
    for one, other in zip(single, stacked, strict=True):
        there, here = state_of(one), state_of(other)
        assert there.keys() == here.keys()
        for place, value in there.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                torch.testing.assert_close(here[place], value, rtol=1e-3, atol=1e-5, msg=place)
            elif isinstance(value, torch.Tensor):
                assert torch.equal(here[place], value), place  # generators
            else:
                assert here[place] == pytest.approx(value), place


@pytest.mark.parametrize(
    "more",
    [
        {"optimizer": "sgd", "momentum": 0.9, "schedule": "constant"},
        {"optimizer": "adam", "schedule": "one-cycle"},
        {"optimizer": "adamw", "schedule": "exponential", "clip_norm": 0.05},
        {"average": "uniform", "average_from": 2},
        {"average": "swad"},
        {"balance": "class"},
    ],
    ids=lambda more: "-".join(map(str, more.values())),
)
def test_recipes_and_averages_are_those_of_runs_alone(vectors, more):
    single, stacked = trainers(vectors, "erm", **more), trainers(vectors, "erm", **more)
    expected, found = [alone(each) for each in single], together(stacked)
    assert [[c[0].val_score for c in run] for run in found] == [
        [c[0].val_score for c in run] for run in expected
    ]
    for one, other in zip(single, stacked, strict=True):
        for mine, its in zip(one.network.parameters(), other.network.parameters(), strict=True):
            torch.testing.assert_close(its, mine, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", [Adam, AdamW, SGD])
def test_moments_are_those_of_pytorchs_optimizers_in_float64(kind):
    """Against PyTorch itself, run by run, each with its own numbers; one begins anew on the way."""
    torch.manual_seed(0)
    given = {"momentum": 0.8} if kind is SGD else {"betas": (0.8, 0.95)}
    first = torch.randn(3, 4, 2, dtype=torch.float64)
    learners, reference = [], []
    stacked = {"weight": first.clone()}
    for row in range(3):
        for into in (learners, reference):
            net = torch.nn.Linear(2, 4, bias=False, dtype=torch.float64)
            net.weight.data = stacked["weight"][row] if into is learners else first[row].clone()
            optimizer = kind(net.parameters(), 0.1 * (row + 1), weight_decay=0.05 * row, **given)
            amp = SimpleNamespace(clip_norm=None)
            into.append(
                SimpleNamespace(network=net, optimizer=optimizer, setup=SimpleNamespace(amp=amp))
            )
    moments = Moments(learners, stacked)
    for step in range(6):
        gradients = torch.randn(3, 4, 2, dtype=torch.float64)
        if step == 3:
            for each in (learners[1], reference[1]):
                each.optimizer.state.clear()
        moments.follow()
        moments.step({"weight": gradients.clone()})
        for each, own in zip(reference, gradients, strict=True):
            each.network.weight.grad = own.clone()
            each.optimizer.step()
    for mine, its in zip(learners, reference, strict=True):
        torch.testing.assert_close(mine.network.weight, its.network.weight, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("steps", [1, 4, 5])
@pytest.mark.parametrize("strata", [False, True])
def test_rows_drawn_ahead_are_those_drawn_step_by_step(steps, strata):
    splits = []
    for count in (7, 100, 33):
        rows = torch.randperm(count, generator=generator_of(count))
        splits.append(Split(None, rows, rows[:0], (rows[:3], rows[3:]) if strata else ()))
    one, other = generator_of("x"), generator_of("x")
    ahead = drawn_ahead(splits, 5, steps, one)
    expected = [[drawn_rows(split, 5, other) for split in splits] for _ in range(steps)]
    assert ahead.tolist() == [[row.tolist() for row in step] for step in expected]
    assert torch.equal(one.get_state(), other.get_state())


def config_of(vectors, *methods, **more):
    return SweepConfig(
        data=(vectors,), methods=methods, trials=1, draws=2,
        settings={"steps": 20, "checkpoints": 4, "accelerator": "cpu"}, **more,
    )  # fmt: skip


def records_of(place):
    """Every run's checkpoints and sealed scores, without what only time decides."""
    directory = SweepDirectory(place)
    found = {}
    for run in directory.plan().runs:
        records = directory.records(run.key)
        assert records.condition == "finished", records.cause
        found[run.key] = [
            (seen.step, seen.val_score, records.sealed[seen.step]) for seen in records.checkpoints
        ]
    return found


def test_a_sweep_comes_to_the_same_tables_stacked_and_single(vectors, tmp_path):
    config = config_of(vectors, "erm", "groupdro", "mixup")
    both = []
    for stack in ("auto", "off"):
        planned = plan_sweep(config, tmp_path / stack, jobs=1, stack=stack)
        assert [bundle for bundle in planned.bundles if bundle.together] == (
            []
            if stack == "off"
            else [b for b in planned.bundles if b.runs[0].config.method != "mixup"]
        )
        assert planned.alone == (
            {"Mixup takes its steps in a way of its own": 8} if stack == "auto" else {}
        )
        both.append(sweep(config, tmp_path / stack, jobs=1, stack=stack))
        assert not both[-1].missing
    assert records_of(tmp_path / "auto") == records_of(tmp_path / "off")
    for name in ("results.csv", "checkpoints.csv"):
        one, other = (pd.read_csv(tmp_path / stack / name) for stack in ("auto", "off"))
        pd.testing.assert_frame_equal(one, other, atol=0.01)


def test_there_are_as_many_bundles_as_jobs_and_none_lacks_a_run(vectors):
    planned = {
        n: plan_sweep(config_of(vectors, "erm", "sd"), "nowhere", jobs=n) for n in (1, 2, 9, 99)
    }
    sizes = {n: sorted(len(bundle.runs) for bundle in each.bundles) for n, each in planned.items()}
    assert sizes[1] == sizes[2]
    assert len(sizes[9]) == 9
    assert sizes[99] == [1] * 16
    for each in planned.values():
        found = [run.key for bundle in each.bundles for run in bundle.runs]
        assert sorted(found) == sorted(run.key for run in each.todo)


def test_who_trains_alone_and_why(vectors):
    def reasons(**more):
        given = config_of(vectors, "erm", "rsc")
        config = replace(given, settings={**given.settings, **more})
        return dict(plan_sweep(config, "nowhere", jobs=1).alone)

    assert set(reasons()) == {"RSC takes its steps in a way of its own"}
    assert "dropout draws as one run" in reasons(dropout=0.5)
    assert "precision" in reasons(precision="bf16-mixed")
    assert "class weights" in reasons(class_weights="balanced")


def test_what_is_derived_from_a_learner_has_to_say_for_itself_that_it_stacks():
    class Derived(erm.ERMLearner):
        """Says nothing."""

    class OtherSteps(erm.ERMLearner):
        stacks = True

        def backward(self, batches):
            return super().backward(batches)

    class Said(erm.ERMLearner):
        stacks = True

    def method(learner):
        return type("Other", (erm.ERM,), {"code": learner})()

    assert [_steps_alike(method(each)) for each in (Derived, OtherSteps, Said)] == [
        False,
        False,
        True,
    ]


@pytest.mark.parametrize(("before", "after"), [("auto", "auto"), ("auto", "off"), ("off", "auto")])
def test_killed_at_any_checkpoint_all_go_on_to_the_same_numbers(
    vectors, tmp_path, monkeypatch, before, after
):
    """Stacked or single before the kill, and single or stacked after it."""
    monkeypatch.setattr("domaingrad.bench.runs.attempts.WRITTEN_EVERY", 0.0)
    config = config_of(vectors, "groupdro")
    sweep(config, tmp_path / "whole", jobs=1)
    left = 13  # of a stack; of runs alone all steps of one and part of another, or so
    of = Stack if before == "auto" else Trainer
    step = of.step

    def killed(self):
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        return step(self)

    planned = plan_sweep(config, tmp_path / "here", jobs=1, stack=before)
    with monkeypatch.context() as patched, planned.begun():
        patched.setattr(of, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            planned.carry_out()
    states = list((tmp_path / "here").glob("runs/*/checkpoint.pt"))
    assert states
    sweep(config, tmp_path / "here", jobs=1, stack=after)
    assert records_of(tmp_path / "here") == records_of(tmp_path / "whole")


def test_a_run_that_fails_ends_alone(vectors, tmp_path, monkeypatch):
    config = config_of(vectors, "erm")
    planned = plan_sweep(config, tmp_path, jobs=1)
    bundle = Bundle(planned.todo, together=True)
    bad = bundle.runs[3]
    judged = Trainer.judged

    def failing(self, outputs, agreement):
        if self.steps_done == 10 and self.training.batch == bad.config.batch:
            raise RuntimeError("the device fell off")
        return judged(self, outputs, agreement)

    alike = [run for run in bundle.runs if run.config.batch == bad.config.batch]
    monkeypatch.setattr(Trainer, "judged", failing)
    with planned.begun():
        places = places_of(bundle, SweepDirectory(tmp_path).place)
        ended = attempt(bundle, places, False, lambda _: None)
    failed = [each for each in ended if isinstance(each, Failed)]
    assert {each.run.key for each in failed} == {run.key for run in alike}
    assert all("the device fell off" in each.cause for each in failed)
    assert sum(isinstance(each, Finished) for each in ended) == len(bundle.runs) - len(alike)


def test_if_the_stack_itself_fails_its_runs_go_on_one_by_one_and_it_is_said(
    vectors, tmp_path, monkeypatch
):
    config = config_of(vectors, "erm")
    sweep(config, tmp_path / "whole", jobs=1)
    planned = plan_sweep(config, tmp_path / "here", jobs=1)

    def failing(self):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(Stack, "step", failing)
    told = []
    with planned.begun():
        planned.carry_out(told.append)
    apart = [each for each in told if isinstance(each, Apart)]
    assert {run for each in apart for run in each.runs} == set(planned.todo)
    assert all("no such operator" in each.cause for each in apart)
    assert records_of(tmp_path / "here") == records_of(tmp_path / "whole")


def test_runs_that_lose_their_process_come_again_alone_as_stacks_of_one(vectors):
    runs = plan_sweep(config_of(vectors, "erm"), "nowhere", jobs=1).todo
    bundle = Bundle(runs, together=True)
    undone = Undone([bundle])
    lost = [Lost(run) for run in undone.take().runs]
    assert list(undone.after(bundle, lost)) == lost
    again = [undone.take() for _ in runs]
    assert set(again) == {Bundle((run,), together=True) for run in runs}
    for _ in range(ATTEMPTS - 2):
        assert list(undone.after(again[0], [Lost(runs[0])])) == [Lost(runs[0])]
    (failed,) = undone.after(again[0], [Lost(runs[0])])
    assert isinstance(failed, Failed)


@pytest.mark.parametrize("method", ["erm", "sand-mask", "coral"])
def test_no_number_depends_on_who_trains_beside(vectors, method):
    """To the last bit, so that a sweep that is gone on with, in other company, has the same."""
    read = data_of(TrainConfig(vectors, None), News())
    configs = [resolved(config, read) for config in settings(vectors, method)]

    def trained(*places):
        made = [begin(configs[place], read).trainer for place in places]
        checkpoints = together(made)
        return checkpoints[0], list(made[0].network.parameters())

    expected, weights = trained(1)
    for others in ((0,), (3, 2, 0)):
        found, own = trained(1, *others)
        assert found == expected
        assert all(torch.equal(one, other) for one, other in zip(own, weights, strict=True))


def test_divergence_of_one_run_stays_its_own(vectors):
    """A rate that diverges in one run; the others come to the numbers that they come to alone."""
    read = data_of(TrainConfig(vectors, None), News())
    configs = [
        resolved(replace(config, optimizer="sgd", learning_rate=1e30 if place == 2 else 0.01), read)
        for place, config in enumerate(settings(vectors, "erm"))
    ]
    single, stacked = ([begin(config, read).trainer for config in configs] for _ in range(2))
    with pytest.warns(UserWarning, match="diverged"):
        expected, found = [alone(each) for each in single], together(stacked)
    for place, (one, other) in enumerate(zip(expected, found, strict=True)):
        assert [c[0].val_score for c in other] == [c[0].val_score for c in one]
        assert (other[-1][0].loss is None) == (place == 2)
