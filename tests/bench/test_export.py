"""Exported files, used without this package, predict as the run does."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from domaingrad import bench
from domaingrad.bench.models import build
from domaingrad.bench.runs import RunDirectoryError
from domaingrad.bench.use import exporting
from tests.cameras import save_cameras

SIZE = 32
QUICK = {"accelerator": "cpu", "steps": 12, "checkpoints": 1, "batch": 8}
FORMS = ["torchscript", "onnx", "safetensors"]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOMAINGRAD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return save_cameras(tmp_path_factory.mktemp("data") / "cameras", 40, 6)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "people.csv"
    ages = np.random.default_rng(0).integers(20, 80, 90)
    rows = [f"site-{i % 3},{age},{'fm'[i % 2]},{age / 7:.3f}" for i, age in enumerate(ages)]
    path.write_text("\n".join(["site,age,sex,score", *rows]))
    return path


@pytest.fixture(scope="module")
def runs(photographs, table, tmp_path_factory):
    """Pictures by a network and by a frozen backbone, larger than seen; a table of numbers."""
    out = tmp_path_factory.mktemp("runs")
    weights = out / "squeezenet.pt"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = build("squeezenet", (3, SIZE, SIZE), 5).state_dict()
    torch.save({n: t * 6**0.5 if t.dim() == 4 else 0 * t for n, t in state.items()}, weights)
    sized = {"data_options": {"size": SIZE, "stored_size": 40}}
    bench.train(
        str(photographs), out / "network", hold_out="west", backbone="mnist-cnn", **sized, **QUICK
    )
    bench.train(
        str(photographs), out / "frozen", hold_out="west", backbone="squeezenet",
        weights=str(weights), frozen_backbone=True, **sized, **QUICK,
    )  # fmt: skip
    columns = {"target": "score", "domain": "site"}
    bench.train(str(table), out / "table", hold_out="site-2", data_options=columns, **QUICK)
    return out


def skip_without(form):
    if form == "onnx":
        pytest.importorskip("onnxruntime", reason="pip install 'domaingrad[onnx]'")
        pytest.importorskip("onnxscript", reason="pip install 'domaingrad[onnx]'")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["network", "frozen", "table"])
def test_every_form_of_every_kind_predicts_as_the_run(runs, tmp_path, kind, form):
    skip_without(form)
    found = bench.export(runs / kind, form, tmp_path / "model")
    assert found.path.is_file()
    assert found.samples == {"table": 48}.get(kind, 36)
    assert found.difference < 1e-5


ALONE = """
import json, sys
import numpy as np, torch
pictures = torch.from_numpy(np.load("pictures.npy"))
described = {"description": ""}
model = torch.jit.load("model", _extra_files=described)
with torch.no_grad():
    probabilities = model(pictures)
assert not any(name.startswith("domaingrad") for name in sys.modules)
classes = json.loads(described["description"])["classes"]
print(json.dumps([[classes[row.argmax()] for row in probabilities], probabilities.tolist()]))
"""


@pytest.mark.parametrize("kind", ["network", "frozen"])
def test_torchscript_runs_without_this_package(runs, photographs, tmp_path, kind):
    bench.export(runs / kind, "torchscript", tmp_path / "model")
    files = sorted((photographs / "west").glob("*/*.png"))
    pictures = np.stack([np.array(Image.open(file)) for file in files]).transpose(0, 3, 1, 2)
    np.save(tmp_path / "pictures.npy", pictures)
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ALONE],
        cwd=tmp_path, check=True, capture_output=True, text=True,
    )  # fmt: skip
    classes, probabilities = json.loads(told.stdout)
    expected = bench.predict(runs / kind, files)
    assert classes == expected.labels
    np.testing.assert_allclose(probabilities, expected.outputs, atol=1e-4)


def test_weights_have_the_architectures_names_and_are_described(runs, tmp_path):
    bench.export(runs / "frozen", "safetensors", tmp_path / "w.safetensors")
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        told = json.loads(file.metadata()["description"])
    assert told["classes"] == ["cat", "dog"]
    assert told["preparation"]["maker"]["inputs"] == {
        "kind": "photographs", "size": SIZE, "stored": 40,
    }  # fmt: skip
    body = build("squeezenet", (3, SIZE, SIZE), 5)
    own = {n.removeprefix("backbone."): t for n, t in weights.items() if n.startswith("backbone.")}
    absent = body.load_state_dict(own, strict=False)
    assert absent.missing_keys == ["classifier.1.weight", "classifier.1.bias"]
    assert not absent.unexpected_keys
    assert weights["head.1.weight"].shape == (128, 512)


def test_a_file_that_predicts_otherwise_is_not_kept(runs, tmp_path, monkeypatch):
    def wrong(whole, trained, stored):
        return b"", lambda inputs: trained.outputs(inputs).flip(1)

    monkeypatch.setitem(exporting.WRITE, "torchscript", wrong)
    with pytest.raises(RunDirectoryError, match="predicts otherwise"):
        bench.export(runs / "network", "torchscript", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_other_files_to_check_on_where_the_data_are_gone(runs, photographs, tmp_path):
    moved = photographs.with_name("moved")
    photographs.rename(moved)
    try:
        with pytest.raises(ValueError, match="Name other files to check on"):
            bench.export(runs / "network", "torchscript", tmp_path / "model")
        found = bench.export(
            runs / "network", "torchscript", tmp_path / "model", check=[moved / "west" / "cat"]
        )
    finally:
        moved.rename(photographs)
    assert found.samples == 6


def test_onnx_without_its_packages_says_how_to_get_them(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"pip install 'domaingrad\[onnx\]'"):
        bench.export(runs / "table", "onnx", tmp_path / "model.onnx")
