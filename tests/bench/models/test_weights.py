"""Weights from files that PyTorch, NumPy and safetensors write themselves."""

import argparse
import copy
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from domaingrad.bench.models import WeightsError, WeightsReport, build, load_weights, mnist_cnn


def model_of(outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, outputs)
    )


def trained(outputs: int) -> dict[str, torch.Tensor]:
    """Weights and statistics that no initialisation gives."""
    return {
        name: torch.rand_like(t) + 2 if t.is_floating_point() else t + 7
        for name, t in model_of(outputs).state_dict().items()
    }


def write(path: Path, state) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in state.items()})
    elif path.suffix == ".safetensors":
        pytest.importorskip("safetensors.torch").save_file(state, path)
    else:
        torch.save(state, path)
    return path


def changed(model: nn.Module, before) -> set[str]:
    return {n for n, tensor in model.state_dict().items() if not torch.equal(tensor, before[n])}


def state_of(model: nn.Module):
    return copy.deepcopy(model.state_dict())


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".PTH", ".safetensors", ".npz"])
def test_everything_is_loaded_where_all_fits(tmp_path, suffix):
    state, model = trained(5), model_of(5)
    assert load_weights(model, write(tmp_path / f"w{suffix}", state)) == WeightsReport(9, ())
    assert not changed(model, state)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npz"])
def test_a_head_of_other_outputs_keeps_its_initialisation(tmp_path, suffix):
    state, model = trained(1000), model_of(5)
    before = state_of(model)
    report = load_weights(model, write(tmp_path / f"w{suffix}", state))
    assert report == WeightsReport(7, ("4.weight", "4.bias"))
    assert changed(model, before) == set(before) - set(report.head)
    assert all(torch.equal(model.state_dict()[n], state[n]) for n in set(before) - set(report.head))


@pytest.mark.parametrize(
    "nested",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "optimizer": {"lr": 0.1}},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {"state_dict": {f"module.{n}": tensor for n, tensor in state.items()}},
    ],
)
def test_weights_are_found_where_training_scripts_put_them(tmp_path, nested):
    state, model = trained(5), model_of(5)
    assert load_weights(model, write(tmp_path / "w.pt", nested(state))).loaded == 9
    assert not changed(model, state)


def test_a_layer_that_is_called_module_is_not_taken_for_a_wrapper(tmp_path):
    model = nn.ModuleDict({"module": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    state = {name: torch.rand_like(tensor) for name, tensor in model.state_dict().items()}
    load_weights(model, write(tmp_path / "w.pt", state))
    assert not changed(model, state)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npz"])
def test_half_precision_is_cast_to_the_model_and_its_tensors_stay_its_own(tmp_path, suffix):
    half = {n: t.half() if t.is_floating_point() else t for n, t in trained(5).items()}
    model = model_of(5).double()
    parameters = list(model.parameters())
    load_weights(model, write(tmp_path / f"w{suffix}", half))
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert model[0].weight.dtype == torch.float64
    assert model[0].weight.requires_grad
    assert torch.equal(model[0].weight, half["0.weight"].double())


def test_the_counter_of_batch_norms_may_be_missing_and_nothing_else(tmp_path):
    state, model = trained(5), model_of(5)
    del state["1.num_batches_tracked"]
    assert load_weights(model, write(tmp_path / "w.pt", state)).loaded == 8
    del state["1.running_mean"]
    with pytest.raises(WeightsError, match=r"1 missing \(1\.running_mean\)\. Choose the backbone"):
        load_weights(model, write(tmp_path / "w.pt", state))


def wider(state):
    return state | {"4.weight": torch.zeros(1000, 65), "4.bias": torch.zeros(1000)}


MISFITS = {
    "unexpected": (lambda s: s | {"aux.weight": torch.zeros(1)}, r"1 unexpected \(aux\.weight\)"),
    "renamed": (
        lambda s: {f"other.{name}": tensor for name, tensor in s.items()},
        r"8 missing \(0\.weight, .*; 9 unexpected \(other\.0\.weight",
    ),
    "other channels": (
        lambda s: s | {"0.weight": torch.zeros(4, 1, 3, 3)},
        r"1 of another shape \(0\.weight \[4, 1, 3, 3\] for \[4, 3, 3, 3\]\)",
    ),
    "the first dimension of a layer that is not the head": (
        lambda s: s | {"0.bias": torch.zeros(9)}, r"1 of another shape \(0\.bias \[9\] for \[4\]\)",
    ),
    "a head on other features": (wider, r"2 of another shape \(4\.weight \[1000, 65\] for \[5, 64"),
    "quantised": (
        lambda s: s | {"0.weight": torch.zeros(4, 3, 3, 3, dtype=torch.int8)},
        r"1 of another kind of number \(0\.weight int8 for float32\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_is_listed_and_the_model_stays_as_it_was(tmp_path, name):
    damage, message = MISFITS[name]
    model = model_of(5)
    before = state_of(model)
    with pytest.raises(WeightsError, match=message):
        load_weights(model, write(tmp_path / "w.pt", damage(trained(5))))
    assert not changed(model, before)


def nested(*prefixes):
    """Names under wrappers, each of which is put before all."""
    return {f"{''.join(prefixes)}{name}": tensor for name, tensor in trained(5).items()}


def beside_the_head(prefix):
    """The body alone under a wrapper."""
    return {n if n.startswith("4.") else f"{prefix}{n}": t for n, t in trained(5).items()}


@pytest.mark.parametrize(
    "state",
    [
        nested("module."),
        nested("_orig_mod."),
        nested("module.", "_orig_mod."),
        nested("model.", "backbone."),
        nested("module.", "model.", "encoder."),
        beside_the_head("backbone."),
        {"epoch": 3, "state_dict": {"model": nested("_orig_mod.", "module.")}},
        {"optimizer": {"lr": 0.1}, "model_state_dict": nested("net.")},
    ],
    ids=lambda state: next(iter(state)) + str(len(state)),
)
def test_prefixes_and_nesting_of_training_scripts_are_seen_through(tmp_path, state):
    model = model_of(5)
    torch.save(state, tmp_path / "w.pt")
    report = load_weights(model, tmp_path / "w.pt")
    assert report == WeightsReport(9, ())
    expected = trained(5)
    assert all((t - expected[n]).abs().max() < 1.01 for n, t in model.state_dict().items())
    assert model.state_dict()["0.weight"].min() >= 2


def test_a_prefix_of_the_models_own_stays(tmp_path):
    model = nn.Sequential()
    model.add_module("model", model_of(5))
    state = {f"model.{name}": tensor for name, tensor in trained(5).items()}
    load_weights(model, write(tmp_path / "w.pt", state))
    assert not changed(model, state)


@pytest.mark.parametrize(
    "others", [{}, {"fc.weight": torch.zeros(9, 64), "fc.bias": torch.zeros(9)}]
)
def test_weights_without_the_models_head_leave_it_fresh(tmp_path, others):
    state, model = trained(5), model_of(5)
    before = state_of(model)
    body = {name: tensor for name, tensor in state.items() if not name.startswith("4.")}
    report = load_weights(model, write(tmp_path / "w.pt", body | others))
    assert report == WeightsReport(7, ("4.weight", "4.bias"), tuple(others))
    assert changed(model, before) == set(body)


def test_ten_names_are_listed_and_the_rest_counted(tmp_path):
    state = trained(5) | {f"more.{i}": torch.zeros(1) for i in range(13)}
    with pytest.raises(WeightsError, match=r"13 unexpected \(more.0, .*more\.9, … and 3 more\)"):
        load_weights(model_of(5), write(tmp_path / "w.pt", state))


class Code:
    def __reduce__(self):
        return Path.touch, (Path("touched"),)


def whole_model(path):
    torch.save(model_of(5), path)


def settings(path):
    torch.save({"state_dict": trained(5), "args": argparse.Namespace(lr=0.1)}, path)


def code(path):
    path.write_bytes(pickle.dumps(Code(), protocol=2))


@pytest.mark.parametrize(
    ("make", "found"),
    [(whole_model, "Conv2d|Sequential"), (settings, "Namespace"), (code, "getattr|touch")],
)
def test_what_can_run_code_is_not_opened(tmp_path, monkeypatch, make, found):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=rf"can run code \(.*({found}).*save its state_dict\(\)"):
        load_weights(model_of(5), tmp_path / "w.pt")
    assert not (tmp_path / "touched").exists()


def test_objects_in_an_npz_are_not_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "w.npz", weight=np.array([Code()], dtype=object))
    with pytest.raises(WeightsError, match=r"cannot be read as \.npz .*Object arrays"):
        load_weights(model_of(5), tmp_path / "w.npz")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npz"])
def test_a_truncated_file_is_told(tmp_path, suffix, kept):
    path = write(tmp_path / f"w{suffix}", trained(5))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(WeightsError, match=r"cannot be read as .*cut off .*Fetch or save it again"):
        load_weights(model_of(5), path)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npz"])
def test_a_file_of_another_kind_is_told(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    path.write_text("<!doctype html><title>404</title>")
    with pytest.raises(WeightsError, match=re.escape(f"{path} cannot be read as {suffix}")):
        load_weights(model_of(5), path)


def test_a_single_array_is_told(tmp_path):
    with (tmp_path / "w.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(WeightsError, match="single array; save arrays by name"):
        load_weights(model_of(5), tmp_path / "w.npz")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (torch.zeros(3), "found a Tensor"),
        ([torch.zeros(3)], "found a list"),
        ({}, "found none"),
        ({"epoch": 3, "net": {"a": torch.zeros(1)}}, r"2 others \(epoch \(int\), net \(dict\)\)"),
    ],
)
def test_a_file_without_tensors_by_name_is_told(tmp_path, content, found):
    with pytest.raises(WeightsError, match=f"{found}.*Save the model's state_dict"):
        load_weights(model_of(5), write(tmp_path / "w.pt", content))


def test_no_file_a_folder_and_another_suffix_are_told(tmp_path):
    with pytest.raises(WeightsError, match=r"weights at .*w\.pt; found no such file"):
        load_weights(model_of(5), tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="found a folder"):
        load_weights(model_of(5), tmp_path)
    (tmp_path / "w.onnx").touch()
    with pytest.raises(WeightsError, match=r"\.pt, \.pth, \.safetensors, \.npz; found .*w\.onnx"):
        load_weights(model_of(5), tmp_path / "w.onnx")


def test_safetensors_that_are_not_installed_are_told(tmp_path, monkeypatch):
    path = write(tmp_path / "w.safetensors", trained(5))
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(WeightsError, match=r"pip install 'domaingrad\[vision\]'"):
        load_weights(model_of(5), path)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("mlp", {"5.weight", "5.bias"}),
        ("mnist-cnn", {"14.weight", "14.bias"}),
        ("torchvision:squeezenet1_1", {"classifier.1.weight", "classifier.1.bias"}),
        ("timm:resnet10t", {"fc.weight", "fc.bias"}),
        ("timm:test_efficientnet", {"classifier.weight", "classifier.bias"}),
        ("timm:test_convnext", {"head.fc.weight", "head.fc.bias"}),
    ],
)
def test_the_head_of_every_kind_of_backbone_is_found(tmp_path, name, head):
    """The reference is what differs between two models that differ in their outputs."""
    if name not in ("mlp", "mnist-cnn"):
        pytest.importorskip("timm" if name.startswith("timm") else "torchvision")
    source, model = build(name, (3, 64, 64), 1000), build(name, (3, 64, 64), 7)
    report = load_weights(model, write(tmp_path / "w.pt", source.state_dict()))
    assert set(report.head) == head
    body = {n: t for n, t in source.state_dict().items() if n not in head}
    assert report.loaded == len(body)
    assert all(torch.equal(model.state_dict()[n], tensor) for n, tensor in body.items())


def test_both_heads_of_a_distilled_model_keep_their_initialisation(tmp_path):
    class Distilled(nn.Module):
        """As timm's: two heads, which ``get_classifier`` gives; registered before the body."""

        def __init__(self, outputs: int):
            super().__init__()
            self.head, self.head_dist = nn.Linear(4, outputs), nn.Linear(4, outputs)
            self.body = nn.Linear(3, 4)

        def get_classifier(self):
            return self.head, self.head_dist

    path = write(tmp_path / "w.pt", Distilled(9).state_dict())
    report = load_weights(Distilled(2), path)
    assert report == WeightsReport(
        2, ("head.weight", "head.bias", "head_dist.weight", "head_dist.bias")
    )


def test_a_model_that_is_a_single_layer_is_its_own_head(tmp_path):
    path = write(tmp_path / "w.pt", nn.Linear(3, 9).state_dict())
    assert load_weights(nn.Linear(3, 2), path) == WeightsReport(0, ("weight", "bias"))


def test_weights_of_another_number_of_channels_do_not_fit(tmp_path):
    path = write(tmp_path / "w.pt", mnist_cnn((1, 8, 8), 10).state_dict())
    with pytest.raises(WeightsError, match=r"1 of another shape \(0\.weight"):
        load_weights(mnist_cnn((2, 8, 8), 10), path)


def test_published_weights_load_into_torchvisions_squeezenet(test_data):
    pytest.importorskip("torchvision")
    path = test_data / "weights" / "squeezenet1_0_imagenet.npz"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    with np.load(path) as file:
        stored = {name: file[name] for name in file.files}
    head = ("classifier.1.weight", "classifier.1.bias")
    model = build("torchvision:squeezenet1_0", (3, 64, 64), 7)
    assert load_weights(model, path) == WeightsReport(len(stored) - 2, head)
    for name, tensor in model.state_dict().items():
        if name not in head:
            assert np.array_equal(tensor.numpy(), stored[name].astype(np.float32))
    whole = build("torchvision:squeezenet1_0", (3, 64, 64), 1000)
    assert load_weights(whole, path) == WeightsReport(len(stored), ())
