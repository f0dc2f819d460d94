"""Tables on the command line: predictions by identifier, what was trained on, the estimate."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

from domaingrad import bench

from .test_train import run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A table of three sites, semicolons between, and a run that holds out none of them."""
    place = tmp_path_factory.mktemp("tables")
    rng = np.random.default_rng(0)
    rows = [
        f"{site};p{at};{age:.1f};{kind};{int(age + 3 * (kind == 'b') > 50)}".replace(".", ",")
        for site in ("north", "south", "west")
        for at, (age, kind) in enumerate(
            zip(rng.normal(50, 10, 60), rng.choice(["a", "b"], 60), strict=True)
        )
    ]
    path = place / "patients.csv"
    path.write_text("site;patient;age;kind;ill\n" + "\n".join(rows) + "\n")
    done = run(
        "train", "--data", path, "--target", "ill", "--domain", "site", "--hold-out", "none",
        "--steps", 40, "--checkpoints", 2, "--accelerator", "cpu", "--out", place / "run",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    return path, place / "run", done


def test_training_says_how_the_table_was_read_and_on_how_many_samples_scores_stand(trained):
    _, _, done = trained
    assert "separated by semicolon" in done.stderr
    assert "with decimal commas" in done.stderr
    assert "column 'patient' has 60 different texts in 180 rows and is left out" in done.stderr
    assert "36 samples" in done.stdout
    assert "95 %: " in done.stdout


def test_predictions_are_called_by_a_column_or_by_the_files_lines(trained, tmp_path):
    _, out, _ = trained
    new = tmp_path / "new.csv"
    new.write_text("patient,age,kind\nann,70,a\nbob,20,z\n")
    by_id = run("predict", out, new, "--id", "patient", "--csv")
    assert [row["file"] for row in csv.DictReader(io.StringIO(by_id.stdout))] == ["ann", "bob"]
    assert "'kind'" in by_id.stderr
    assert "training has not seen in 1 of 2 rows" in by_id.stderr
    by_line = run("predict", out, new, "--csv")
    assert f"{new}:2" in by_line.stdout


def test_evaluating_repeats_the_estimate_and_says_what_was_trained_on(trained, tmp_path):
    path, out, _ = trained
    told = json.loads(run("evaluate", out, "--json").stdout)
    scores = bench.train(str(path), out, hold_out=None, data_options={"target": "ill",
        "domain": "site"}, steps=40, checkpoints=2, accelerator="cpu").estimate.scores  # fmt: skip
    assert told["estimate"] == pytest.approx(scores)
    assert "estimate for a new domain" in run("evaluate", out).stdout
    own = run("evaluate", out, "--data", path)
    assert "is what this model was trained on" in own.stderr
    other = tmp_path / "other.csv"
    other.write_text(path.read_text().replace("p1;", "q1;"))
    assert "is what this model was trained on" not in run("evaluate", out, "--data", other).stderr


def test_a_picture_that_cannot_be_written_is_a_note_beside_the_numbers(trained, tmp_path):
    _, out, _ = trained
    (out / "confusion.png").unlink(missing_ok=True)
    (out / "confusion.png").mkdir()
    done = run("evaluate", out)
    assert done.exit_code == 0, done.output
    assert "north" in done.stdout
    assert "No picture:" in done.stderr
    (out / "confusion.png").rmdir()
    asked = run("evaluate", out, "--plot", tmp_path / "absent" / "picture.png")
    assert asked.exit_code == 2


def test_broken_images_are_left_out_of_predictions_where_that_is_asked_for(tmp_path):
    rng = np.random.default_rng(0)
    for place in ("a/x", "a/y", "b/x", "b/y"):
        (tmp_path / "photos" / place).mkdir(parents=True)
        for at in range(4):
            pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / place / f"{at}.png")
    out = tmp_path / "run"
    bench.train(str(tmp_path / "photos"), out, hold_out="b", steps=2, batch=2, backbone="mlp",
                data_options={"size": 16}, accelerator="cpu")  # fmt: skip
    (tmp_path / "new").mkdir()
    Image.fromarray(pixels).save(tmp_path / "new" / "good.png")
    (tmp_path / "new" / "bad.png").write_bytes(b"none")
    assert run("predict", out, tmp_path / "new").exit_code == 2
    done = run("predict", out, tmp_path / "new", "--skip-unreadable", "--csv")
    assert [row["file"] for row in csv.DictReader(io.StringIO(done.stdout))] == [
        str(tmp_path / "new" / "good.png")
    ]
    assert "1 of 2 images cannot be decoded and are left out" in done.stderr


def test_numbers_are_evaluated_by_domain_and_together_as_the_run_was_selected(tmp_path):
    rng = np.random.default_rng(1)
    rows = []
    for site, shift in (("a", 0), ("b", 40), ("c", 80)):
        x = rng.normal(size=(60, 2))
        y = 1e9 + shift + 3 * x[:, 0] + rng.normal(size=60)
        rows += [f"{site},{p:.3f},{q:.3f},{t:.2f}\n" for (p, q), t in zip(x, y, strict=True)]
    path = tmp_path / "t.csv"
    path.write_text("site,p,q,y\n" + "".join(rows))
    done = run(
        "train", "--data", path, "--target", "y", "--domain", "site", "--hold-out", "c",
        "--model", "ridge", "--accelerator", "cpu", "--out", tmp_path / "run",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "RMSE " in done.stdout
    told = json.loads(run("evaluate", tmp_path / "run", "--json").stdout)
    facts = told["trained"]
    assert told["pooled"]["R²"] == pytest.approx(facts["source_validation"], abs=1e-4)
    assert "sources together" in run("evaluate", tmp_path / "run").stdout
    rows = list(csv.DictReader(io.StringIO(run("predict", tmp_path / "run", path, "--csv").stdout)))
    assert all(abs(float(row["prediction"]) - 1e9) < 1000 for row in rows)
    both = run("train", "--data", path, "--target", "y", "--domain", "site", "--hold-out", "c",
               "--model", "ridge", "--method", "and-mask")  # fmt: skip
    assert both.exit_code == 2
    assert "--model ridge is a method; found --method and-mask, too" in " ".join(
        both.stderr.split()
    )


def test_a_manifest_whose_columns_are_named_is_evaluated_as_other_data(tmp_path):
    rng = np.random.default_rng(0)
    rows = ["path,kind,camera"]
    for at in range(16):
        pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{at}.png")
        rows.append(f"{at}.png,{'xy'[at % 2]},{'ab'[at // 8]}")
    manifest = tmp_path / "list.csv"
    manifest.write_text("\n".join(rows) + "\n")
    bench.train(
        f"manifest:{manifest}", tmp_path / "run", hold_out="b", steps=2, batch=2, backbone="mlp",
        data_options={"size": 8, "target": "kind", "domain": "camera"}, accelerator="cpu",
    )  # fmt: skip
    found = bench.evaluate(tmp_path / "run", f"manifest:{manifest}")
    assert [each.samples for each in found.domains] == [8, 8]
    assert any("is what this model was trained on" in note for note in found.notes)
