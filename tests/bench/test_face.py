"""The public face of bench: what a Python program needs, by one import."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from domaingrad import bench

ASKED_FOR = ("train", "sweep", "evaluate", "predict", "load_model", "inspect", "register",
             "TrainConfig", "SweepConfig", "Result")  # fmt: skip
SMALL = {"steps": 40, "checkpoints": 2, "accelerator": "cpu"}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "people.csv"
    generator = torch.Generator().manual_seed(0)
    ages = torch.randint(20, 80, (150,), generator=generator).tolist()
    rows = [f"site-{i % 3},{age},{'yes' if age > 50 else 'no'}" for i, age in enumerate(ages)]
    path.write_text("\n".join(["site,age,ill", *rows]))
    return path


@pytest.fixture(scope="module")
def result(table, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    options = {"target": "ill", "domain": "site"}
    return bench.train(str(table), out, hold_out="site-2", data_options=options, **SMALL)


def test_what_is_asked_for_is_there():
    assert set(ASKED_FOR) <= set(bench.__all__)
    assert all(hasattr(bench, name) for name in bench.__all__)


def test_a_run_is_told_evaluated_inspected_and_asked(result, table, tmp_path):
    assert isinstance(result, bench.Result)
    assert result.held_out.score > 0.8
    path = result.directory.path
    evaluation = bench.evaluate(path)
    assert evaluation.domains[-1].role == "held out"
    assert bench.inspect(str(path), samples=8).domains == ("site-0", "site-1")
    new = tmp_path / "new.csv"
    new.write_text("age\n25\n75\n")
    found = bench.predict(path, [new])
    assert found.labels == ["no", "yes"]
    assert found.names == (f"{new}:2", f"{new}:3")


def test_a_loaded_model_is_a_module_that_predicts(result):
    model = bench.load_model(result.directory.path)
    assert isinstance(model, nn.Module)
    assert model.classes == ("no", "yes")
    stored = torch.tensor([[25.0], [75.0]])
    prepared = model.transform(stored)
    assert torch.equal(model.predict(stored), model(prepared).softmax(1))
    again = bench.load_model(str(result.directory.model))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


def test_a_config_or_data_in_memory_train_alike(tmp_path):
    config = bench.TrainConfig("colored-digits", "-90%", **SMALL)
    result = bench.train(config, tmp_path / "config")
    assert result.selected.step in (20, 40)
    with pytest.raises(ValueError, match="all settings in the TrainConfig"):
        bench.train(config, tmp_path / "config", method="and-mask")
    x = torch.randn(20, 3)
    domains = {name: TensorDataset(x, (x[:, 0] > 0).long()) for name in "abc"}
    with pytest.raises(ValueError, match="expected hold_out"):
        bench.train(domains, tmp_path / "memory", **SMALL)


def test_a_sweep_is_carried_out_reported_and_resumed(tmp_path):
    config = bench.SweepConfig(
        data=("colored-digits",), methods=("erm", "and-mask"), hold_out=("-90%",), trials=1,
        settings=SMALL,
    )  # fmt: skip
    seen = []
    summary = bench.sweep(config, tmp_path, jobs=1, on_event=seen.append)
    assert not summary.missing
    assert sum(isinstance(event, bench.Finished) for event in seen) == 2
    assert (tmp_path / "report.html").exists()
    seen.clear()
    bench.sweep(config, tmp_path, jobs=1, on_event=seen.append)
    assert not seen
    with pytest.raises(ValueError, match="holds another sweep"):
        bench.plan_sweep(bench.SweepConfig(data=("spirals",), methods=("erm",)), tmp_path)


def test_what_a_training_is_made_of_is_made_once(tmp_path, monkeypatch):
    from domaingrad.bench.models import Architecture

    build, made = Architecture.build, []

    def counted(*arguments):
        made.append(arguments)
        return build(*arguments)

    monkeypatch.setattr(Architecture, "build", counted)
    bench.train("colored-digits", tmp_path / "run", hold_out="-90%", **SMALL)
    assert len(made) == 1
