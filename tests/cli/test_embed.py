"""embed, train on what it wrote, export, by the command line."""

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from domaingrad.bench.models import build
from domaingrad.cli.app import app
from tests.cameras import save_cameras


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOMAINGRAD_CACHE", str(tmp_path / "cache"))
    save_cameras(tmp_path / "cameras", 32, 4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = build("squeezenet", (3, 32, 32), 5).state_dict()
    torch.save({n: t * 6**0.5 if t.dim() == 4 else 0 * t for n, t in state.items()}, "w.pt")
    return tmp_path


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated:DeprecationWarning")
def test_images_are_embedded_trained_on_and_the_model_exported(place):
    embedding = run(
        "embed", "--data", "cameras", "--size", 32, "--backbone", "squeezenet", "--weights", "w.pt",
        "--accelerator", "cpu", "--out", "vectors.npz",
    )  # fmt: skip
    assert embedding.exit_code == 0, embedding.output
    assert "Wrote 24 vectors of 512 numbers, 3 domains, to vectors.npz" in embedding.stderr
    assert np.load("vectors.npz")["embeddings"].shape == (24, 512)
    training = run(
        "train", "--data", "vectors.npz", "--hold-out", "west", "--steps", 20, "--head", "linear",
        "--accelerator", "cpu", "--out", "run",
    )  # fmt: skip
    assert training.exit_code == 0, training.output
    assert "west, held out" in training.stdout
    exporting = run("export", "run", "--to", "torchscript", "--out", "model.pt")
    assert exporting.exit_code == 0, exporting.output
    assert "it predicts as the run does" in exporting.stderr
    # A run on vectors takes vectors, but where it is checked on images.
    model = torch.jit.load("model.pt")
    assert model(torch.zeros(3, 512)).shape == (3, 2)
    whole = run("export", "run", "--to", "torchscript", "--out", "x.pt", "--check", "cameras/west")
    assert whole.exit_code == 0, whole.output
    pictures = torch.zeros(3, 3, 32, 32, dtype=torch.uint8)
    assert torch.jit.load("x.pt")(pictures).shape == (3, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "vectors.npz"], "expected the backbone to be named"),
        (["--out", "vectors.csv", "--backbone", "squeezenet"], "written to an .npz"),
        (["--out", "vectors.npz", "--backbone", "squeezenet"], "needs its weights"),
    ],
)
def test_what_is_missing_is_said_in_a_sentence(place, options, message):
    result = run("embed", "--data", "cameras", "--size", 32, *options)
    assert result.exit_code == 2
    assert message in result.stderr
