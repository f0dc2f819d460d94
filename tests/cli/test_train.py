"""train, evaluate and predict by the command line."""

import csv
import io
import json

import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from domaingrad.cli.app import app

DIGITS = ["train", "--data", "colored-digits", "--hold-out=-90%", "--accelerator", "cpu"]
DIGITS += ["--steps", 8, "--checkpoints", 2]


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Three cameras, two classes told by colour."""
    root = tmp_path_factory.mktemp("data") / "cameras"
    generator = torch.Generator().manual_seed(0)
    for camera in ("north", "south", "west"):
        for name, colour in (("cat", (200, 60, 60)), ("dog", (60, 60, 200))):
            folder = root / camera / name
            folder.mkdir(parents=True)
            for number in range(10):
                shade = torch.randint(-30, 30, (3,), generator=generator)
                pixel = tuple(int(c + s) for c, s in zip(colour, shade, strict=True))
                Image.new("RGB", (24, 20), pixel).save(folder / f"{number}.png")
    (root / "west" / "cat" / "Thumbs.db").write_bytes(b"?")
    return root


@pytest.fixture(scope="module")
def trained(photographs, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "cameras"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOMAINGRAD_CACHE", str(tmp_path_factory.mktemp("cache")))
        result = run(
            "train", "--data", photographs, "--hold-out", "west", "--size", 32, "--backbone",
            "mnist-cnn", "--method", "and-mask", "--steps", 30, "--batch", 8, "--checkpoints", 3,
            "--learning-rate", 1e-3, "--accelerator", "cpu", "--augment", "none", "--out", out,
        )  # fmt: skip
    assert result.exit_code == 0, result.output
    return out, result


def test_a_folder_is_trained_on_and_what_was_noticed_is_told(trained):
    out, result = trained
    assert "source validation" in result.stdout
    assert "west, held out" in result.stdout
    assert "Thumbs.db" in result.stderr
    kept = {path.name for path in out.iterdir()}
    assert {
        "config.yaml",
        "run.jsonl",
        "held_out.jsonl",
        "checkpoint.pt",
        "model.safetensors",
    } <= kept
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert (config["hold_out"], config["method"], config["steps"]) == ("west", "and-mask", 30)


def test_the_held_out_score_is_told_at_the_end_alone(trained):
    _, result = trained
    progress = [line for line in result.stderr.splitlines() if "step " in line]
    assert len(progress) == 3
    for line in progress:
        assert "source validation" in line
        assert "agreement" in line
        assert line.count("%") == 2


def test_images_are_predicted_with_probabilities(trained, photographs, tmp_path):
    out, _ = trained
    Image.new("RGB", (50, 50), (220, 50, 50)).save(tmp_path / "red.png")
    Image.new("RGB", (50, 50), (50, 50, 220)).save(tmp_path / "blue.png")
    result = run("predict", out, tmp_path, "--json")
    assert result.exit_code == 0, result.output
    told = {row["file"]: row for row in json.loads(result.stdout)}
    assert {name.rpartition("/")[2]: row["prediction"] for name, row in told.items()} == {
        "blue.png": "dog", "red.png": "cat",
    }  # fmt: skip
    for row in told.values():
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert row["prediction"] == max(row["probabilities"], key=row["probabilities"].get)
    result = run("predict", out, tmp_path / "*.png", "--csv")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["prediction"] for row in rows] == ["dog", "cat"]
    assert set(rows[0]) == {"file", "prediction", "p(cat)", "p(dog)"}
    assert "cat" in run("predict", out, tmp_path / "red.png").stdout


def test_what_cannot_be_predicted_is_told(trained, tmp_path):
    out, _ = trained
    (tmp_path / "broken.png").write_bytes(b"no image")
    for arguments, said in (
        ((out, tmp_path / "broken.png"), "broken.png"),
        ((out, tmp_path / "none-*.png"), "nothing of that pattern"),
        ((tmp_path, tmp_path), "is no run"),
        ((out, tmp_path, "--csv", "--json"), "found both"),
    ):
        result = run("predict", *arguments)
        assert result.exit_code == 2
        assert said in result.stderr
        assert "Traceback" not in result.output


def test_an_evaluation_tells_domains_classes_and_draws_the_confusion(trained):
    out, _ = trained
    result = run("evaluate", out, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["classes"] == ["cat", "dog"]
    by_domain = {entry["domain"]: entry for entry in told["domains"]}
    assert by_domain["west"]["role"] == "held out"
    assert by_domain["west"]["samples"] == 20
    assert sum(map(sum, by_domain["west"]["confusion"])) == 20
    names = {"accuracy", "balanced accuracy", "macro F1", "AUROC", "ECE"}
    assert set(by_domain["west"]["metrics"]) == names
    assert (out / "confusion.png").read_bytes().startswith(b"\x89PNG")
    plain = run("evaluate", out)
    for word in ("held out", "ECE", "recall of class", "cat", "dog"):
        assert word in plain.stdout


def test_a_written_config_runs_again_and_options_go_before_it(tmp_path):
    first = run(*DIGITS, "--method", "sand-mask", "--set", "tau=0.3", "--out", tmp_path / "one")
    assert first.exit_code == 0, first.output
    config = tmp_path / "one" / "config.yaml"
    again = run("train", "--config", config, "--out", tmp_path / "two")
    assert again.exit_code == 0, again.output
    one, two = (tmp_path / name / "model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    other = run(
        "train", "--config", tmp_path / "one", "--set", "tau=0.6", "--out", tmp_path / "three"
    )
    assert other.exit_code == 0, other.output
    there = yaml.safe_load((tmp_path / "three" / "config.yaml").read_text())
    assert there["hyperparameters"] == {"tau": 0.6, "k": 10.0, "variance": "absolute"}
    assert there["hold_out"] == "-90%"


def test_the_same_command_finds_its_directory_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = run(*DIGITS, "--json")
    again = run(*DIGITS, "--json")
    assert first.exit_code == 0, first.output
    assert json.loads(first.stdout) == json.loads(again.stdout)
    assert len(list((tmp_path / "runs" / "train").iterdir())) == 1
    run(*DIGITS, "--seed", 1)
    assert len(list((tmp_path / "runs" / "train").iterdir())) == 2


def test_no_domain_held_out_gives_an_estimate(tmp_path):
    arguments = ["--data", "colored-digits", "--hold-out", "none", "--steps", 4]
    arguments += ["--checkpoints", 1, "--accelerator", "cpu", "--out", tmp_path]
    result = run("train", *arguments)
    assert result.exit_code == 0, result.output
    assert "estimate for a new domain" in result.stdout
    for name in ("+90%", "+80%", "-90%"):
        assert f"{name}, while held out" in result.stdout
    told = json.loads(run("train", *arguments, "--json").stdout)
    assert set(told["estimate"]) == {"+90%", "+80%", "-90%"}
    assert told["held_out"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--hold-out", "x"], "expected the setting data"),
        (["--data", "colored-digits"], "expected the setting hold_out"),
        (["--data", "colored-digits", "--hold-out", "x"], "no domain 'x'"),
        (["--data", "folders:/tmp", "--hold-out", "x"], "did you mean 'folder'"),
        (["--data", "no/such/folder", "--hold-out", "x"], "there is no no/such/folder"),
        (["--data", "colored-digits", "--hold-out=-90%", "--set", "tau"], "--set NAME=VALUE"),
        (["--data", "colored-digits", "--hold-out=-90%", "--target", "y"], "take no target"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_bad_input_is_a_sentence(arguments, said, tmp_path):
    result = run("train", *arguments, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    assert not (tmp_path / "out" / "run.jsonl").exists()


def test_a_table_of_numbers_is_trained_on_evaluated_and_predicted(tmp_path):
    generator = torch.Generator().manual_seed(1)
    rows = []
    for site in range(3):
        for size, rooms in torch.rand(50, 2, generator=generator).tolist():
            rows.append(
                f"{2019 + site},{100 * size:.2f},{rooms:.2f},{3000 * size + 500 * rooms:.1f}"
            )
    table = tmp_path / "houses.csv"
    table.write_text("year,size,rooms,price\n" + "\n".join(rows) + "\n")
    out = tmp_path / "run"
    result = run(
        "train", "--data", table, "--target", "price", "--domain", "year", "--hold-out", "2021",
        "--learning-rate", 0.01, "--steps", 150, "--batch", 16, "--accelerator", "cpu",
        "--out", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "source validation  R² " in result.stdout
    told = json.loads(run("evaluate", out, "--json").stdout)
    [held_out] = [entry for entry in told["domains"] if entry["role"] == "held out"]
    assert held_out["samples"] == 50
    assert held_out["metrics"]["R²"] > 0.9
    assert held_out["confusion"] is None
    assert "RMSE" in run("evaluate", out).stdout
    new = tmp_path / "new.csv"
    new.write_text("rooms,size\n0.5,50\n0.5,90\n")
    rows = list(csv.DictReader(io.StringIO(run("predict", out, new, "--csv").stdout)))
    assert [row["file"] for row in rows] == [f"{new}:2", f"{new}:3"]
    assert [float(row["prediction"]) for row in rows] == pytest.approx([1750, 2950], abs=300)
    lacking = tmp_path / "lacking.csv"
    lacking.write_text("rooms\n1\n")
    assert (
        "lacks columns that the model was trained on: size" in run("predict", out, lacking).stderr
    )
