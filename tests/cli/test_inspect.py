"""inspect by the command line."""

import json

import pytest
import torch
from torch.utils.data import TensorDataset
from typer.testing import CliRunner

from domaingrad import bench
from domaingrad.cli.app import app


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "digits"
    arguments = ["--data", "colored-digits", "--hold-out=-90%", "--steps", 40]
    result = run("train", *arguments, "--accelerator", "cpu", "--out", out)
    assert result.exit_code == 0, result.output
    return out


def test_the_sources_are_compared_layer_by_layer_and_not_the_held_out_domain(trained):
    found = json.loads(run("inspect", trained, "--json").stdout)
    assert found["domains"] == ["+90%", "+80%"]
    cosine = found["cosines"][0][1]
    assert found["cosines"] == [[pytest.approx(1), cosine], [cosine, pytest.approx(1)]]
    layers = found["layers"]
    assert list(layers) == ["model", "1", "3", "5"]
    assert layers["model"]["mean_cosine"] == pytest.approx(cosine)
    parts = [layers[name] for name in ("1", "3", "5")]
    total = sum(part["components"] for part in parts)
    assert layers["model"]["components"] == total == 128 * 64 + 64 + 64 * 64 + 64 + 64 * 2 + 2
    agreeing = sum(part["agreement"] * part["components"] for part in parts)
    assert layers["model"]["agreement"] == pytest.approx(agreeing / total)
    assert found["gsnr_of_noise"] == pytest.approx(1 / (2 * 64 - 3))
    assert all(part["gsnr"] > 0 for part in parts)
    for kind, pairs in (("intra", 2 * 2), ("inter", 2 * 4)):
        interval = found["similarity"][kind]
        assert interval["pairs"] == pairs
        assert interval["low"] <= interval["mean"] <= interval["high"]


def test_the_same_look_gives_the_same_numbers_and_another_seed_others(trained):
    one, same, other = (
        run("inspect", trained, "--json", "--seed", seed).stdout for seed in (1, 1, 2)
    )
    assert one == same
    assert one != other


def test_the_tables_name_domains_and_layers(trained):
    shown = run("inspect", trained, "--samples", 16).stdout
    for word in ("+90%", "+80%", "mean cosine", "agreement", "GSNR", "between domains"):
        assert word in shown
    assert "-90%" not in shown


def test_a_picture_is_drawn_and_a_place_that_is_none_is_told(trained, tmp_path):
    picture = tmp_path / "conflict.svg"
    assert run("inspect", trained, "--samples", 8, "--plot", picture).exit_code == 0
    drawn = picture.read_text()
    assert drawn.count('<g id="axes_') == 4 + 1  # four panels and the scale of the colours
    for path in (tmp_path / "no" / "folder.png", tmp_path / "conflict.xyz"):
        failed = run("inspect", trained, "--samples", 8, "--plot", path)
        assert (failed.exit_code, "cannot be written" in failed.stderr) == (2, True)


def test_what_cannot_be_inspected_is_told(trained, tmp_path):
    few = run("inspect", trained, "--samples", 2)
    assert (few.exit_code, "at least 4; found 2" in few.stderr) == (2, True)
    nothing = run("inspect", tmp_path)
    assert (nothing.exit_code, "is no run" in nothing.stderr) == (2, True)
    x, y = torch.randn(2, 10, 3), torch.arange(10) % 2
    domains = {"a": TensorDataset(x[0], y), "b": TensorDataset(x[1], y)}
    bench.train(domains, tmp_path / "run", hold_out="a", steps=1, accelerator="cpu")
    memory = run("inspect", tmp_path / "run")
    assert (memory.exit_code, "memory of a Python program" in memory.stderr) == (2, True)
