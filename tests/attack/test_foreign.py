"""Nobody's files are overwritten, removed, or written to by a link."""

import json
import os
import shutil

import pytest
from PIL import Image

from .conftest import TRAIN
from .invoking import command, require_clear_end

SLOW = pytest.mark.slow
REPORTS = ["results.csv", "results.md", "results.tex", "report.html", "checkpoints.csv"]
COMPARE = ["compare", "--data", "spirals", "--methods", "erm", "--trials", 1, "--steps", 2,
           "--jobs", 1, "--out"]  # fmt: skip
SWEEP = ["sweep", "--data", "spirals", "--methods", "erm", "--draws", 1, "--trials", 1, "--steps",
         2, "--jobs", 1, "--accelerator", "cpu", "--out"]  # fmt: skip
ABLATE = ["ablate", "gsnr", "--data", "spirals", "--trials", 1, "--steps", 2, "--jobs", 1, "--out"]


def everything(root):
    """Paths below a folder and what they hold, links as such."""
    return {
        str(path.relative_to(root)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in root.rglob("*")
        if path.is_symlink() or path.is_file()
    }


@pytest.mark.parametrize("line", [COMPARE, SWEEP, ABLATE], ids=lambda line: line[0])
@pytest.mark.parametrize("name", [*REPORTS, "plan.json", "runs", "failures", "lock"])
def test_a_file_of_a_reports_name_is_kept_and_nothing_is_begun(tmp_path, line, name):
    (tmp_path / name).write_text("mine")
    before = everything(tmp_path)
    require_clear_end(command([*line, tmp_path]), "")
    left = everything(tmp_path)
    assert {name: left[name] for name in before} == before
    assert not any("run.jsonl" in path for path in left)


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_elsewhere_replaces_nobodys_file(good, tmp_path, name):
    (tmp_path / name).write_text("mine")
    require_clear_end(command(["report", good["sweep"], "--out", tmp_path]), "has not written")
    assert everything(tmp_path) == {name: b"mine"}


def test_a_report_replaces_an_earlier_one(good, tmp_path):
    for _ in range(2):
        assert command(["report", good["sweep"], "--out", tmp_path]).exit_code == 0
    assert sorted(everything(tmp_path)) == sorted(REPORTS)


@pytest.mark.parametrize("name", ["a.txt", "run.jsonl", "checkpoint.pt", "lock", "config.yaml"])
def test_a_training_leaves_a_folder_of_others_as_it_is(good, tmp_path, name):
    (tmp_path / name).write_text("mine: all")
    line = [*TRAIN, *good["train command"], "--hold-out", "c", "--out", tmp_path]
    require_clear_end(command(line), "")
    assert everything(tmp_path) == {name: b"mine: all"}


@pytest.mark.parametrize("line", ["evaluate {} --plot", "inspect {} --plot"])
@pytest.mark.parametrize("name", ["mine.png", "mine.svg", "mine.pdf"])
def test_a_plot_replaces_plots_of_ours_alone(good, tmp_path, line, name):
    line = [*line.format(good["run"]).split(), tmp_path / name]
    for _ in range(2):
        result = command(line)
        assert result.exit_code == 0, result.output
    Image.new("RGB", (4, 4)).save(tmp_path / "other.png")
    shutil.copy(tmp_path / "other.png", tmp_path / name)
    before = everything(tmp_path)
    require_clear_end(command(line), "has not written")
    assert everything(tmp_path) == before


def test_a_strangers_confusion_in_a_run_is_kept_and_the_numbers_are_told(copied):
    run = copied("run")
    (run / "confusion.png").write_bytes(b"mine")
    result = command(["evaluate", run])
    assert result.exit_code == 0, result.output
    assert "recall of class" in result.stdout
    assert "No picture" in result.stderr
    assert (run / "confusion.png").read_bytes() == b"mine"


LINKS = ["confusion.png", "checkpoint.pt", "model.safetensors", "run.jsonl", "held_out.jsonl",
         "groups.jsonl", "lock", "config.yaml", "config.yaml.part", "checkpoint.pt.part",
         "checkpoint.pt.damaged", "run.jsonl.damaged"]  # fmt: skip


@pytest.mark.parametrize("name", LINKS)
@pytest.mark.parametrize(
    "damage", ["run.jsonl", *(pytest.param(d, marks=SLOW) for d in (None, "checkpoint.pt"))]
)
def test_links_in_a_strangers_run_lead_no_writing_outside(good, copied, tmp_path, name, damage):
    run, outside = copied("run"), tmp_path / "outside"
    outside.mkdir()
    target = outside / "secret"
    if (run / name).exists():
        shutil.move(run / name, target)
    else:
        target.write_text("mine")
    (run / name).symlink_to(target)
    if damage and damage != name:
        (run / damage).write_bytes((run / damage).read_bytes()[:-20])
    before = everything(outside)
    train = [*TRAIN, *good["train command"], "--hold-out", "c", "--loggers", "csv", "--out", run]
    for line in (train, ["evaluate", run], ["inspect", run], ["predict", run, good["table"]]):
        result = command(line)
        assert result.exception is None or isinstance(result.exception, SystemExit), result
    assert everything(outside) == before


@pytest.mark.parametrize("name", ["logs", "logs/csv", "estimate", "estimate/a"])
def test_linked_folders_in_a_strangers_run_lead_no_writing_outside(good, copied, tmp_path, name):
    run, outside = copied("open"), tmp_path / "outside"
    outside.mkdir()
    if (run / name).exists():
        shutil.rmtree(run / name)
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).symlink_to(outside)
    (run / "run.jsonl").write_bytes((run / "run.jsonl").read_bytes()[:-20])
    line = [*TRAIN, *good["train command"], "--hold-out", "none", "--loggers", "csv", "--out", run]
    result = command(line)
    assert result.exception is None or isinstance(result.exception, SystemExit), result
    assert everything(outside) == {}


@pytest.mark.parametrize("name", [*REPORTS, "plan.json.part", "lock", "runs", "failures", "a run"])
def test_links_in_a_strangers_sweep_lead_no_writing_outside(good, copied, tmp_path, name):
    sweep, outside = copied("sweep"), tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("mine")
    place = sweep / name
    if name == "a run":
        place = sorted((sweep / "runs").iterdir())[0]
    is_folder = place.is_dir()
    if is_folder:
        shutil.rmtree(place)
    elif place.exists():
        place.unlink()
    place.symlink_to(outside if is_folder else outside / "secret")
    for line in (["report", sweep], [*good["sweep command"][:-1], sweep, "--retry-failed"]):
        result = command(line)
        assert result.exception is None or isinstance(result.exception, SystemExit), result
    assert everything(outside) == {"secret": b"mine"}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DOMAINGRAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def written_by(good, what, path):
    """A command that writes a file to a path."""
    if what == "embed":
        return [*good["embed command"], path]
    return ["export", good["run"], "--to", what, "--out", path]


WRITTEN = [("embed", "a.npz"), ("torchscript", "a.pt"), ("safetensors", "a.safetensors"),
           ("onnx", "a.onnx")]  # fmt: skip


@pytest.mark.parametrize(("what", "name"), WRITTEN)
@pytest.mark.parametrize("linked", [False, True], ids=["file", "link"])
def test_a_file_of_others_is_kept_before_any_work(good, tmp_path, cache, what, name, linked):
    (tmp_path / "secret").write_text("mine")
    if linked:
        (tmp_path / name).symlink_to(tmp_path / "secret")
    else:
        (tmp_path / name).write_text("mine")
    before = everything(tmp_path)
    require_clear_end(command(written_by(good, what, tmp_path / name)), "has not written")
    assert everything(tmp_path) == before
    assert not cache.exists()


@pytest.mark.parametrize(("what", "name"), WRITTEN)
def test_a_file_of_ours_is_replaced_by_the_same(good, tmp_path, cache, what, name):
    if what == "onnx":
        pytest.importorskip("onnxruntime")
    found = []
    for _ in range(2):
        result = command(written_by(good, what, tmp_path / "to" / name))
        assert result.exit_code == 0, result.output
        found.append(everything(tmp_path / "to"))
    assert [*found[0]] == [*found[1]] == [name]
    assert what != "embed" or found[0] == found[1]


@pytest.mark.parametrize("name", ["exported.pt", "exported.safetensors"])
def test_a_link_in_a_strangers_run_leads_no_export_outside(copied, tmp_path, name):
    run, to = copied("run"), "torchscript" if name.endswith(".pt") else "safetensors"
    (tmp_path / "secret").write_text("mine")
    (run / name).symlink_to(tmp_path / "secret")
    require_clear_end(command(["export", run, "--to", to]), "has not written")
    assert (tmp_path / "secret").read_text() == "mine"


def test_links_among_kept_embeddings_lead_no_writing_outside(good, tmp_path, cache):
    line = [*good["embed command"], tmp_path / "a.npz"]
    assert command(line).exit_code == 0
    whole, outside = (tmp_path / "a.npz").read_bytes(), tmp_path / "outside"
    outside.mkdir()
    pieces = [path for path in cache.glob("embeddings/*/*") if path.is_file()]
    assert len(pieces) == 3  # one a domain
    for number, path in enumerate(pieces):
        (outside / str(number)).write_text("mine")
        path.unlink()
        path.symlink_to(outside / str(number))
    before = everything(outside)
    assert command(line).exit_code == 0
    assert everything(outside) == before
    assert (tmp_path / "a.npz").read_bytes() == whole
    folder = pieces[0].parent
    shutil.rmtree(folder)
    folder.symlink_to(outside)
    require_clear_end(command(line), "symbolic link")
    assert everything(outside) == before


@pytest.mark.parametrize("name", ["holiday.jpg", "a/1.png", f"{'0' * 32}/notes.txt"])
def test_clearing_a_cache_removes_nothing_of_others(good, cache, name):
    line = ["--data", good["photos"], "--size", 28, "--backbone", "mnist-cnn", "--hold-out", "west"]
    assert command([*TRAIN, *line, "--out", cache.parent / "run"]).exit_code == 0
    (cache / "images" / name).parent.mkdir(exist_ok=True)
    (cache / "images" / name).write_text("mine")
    before = everything(cache)
    require_clear_end(command(["cache", "--clear"]), "has not written")
    assert everything(cache) == before
    (cache / "images" / name).unlink()
    assert command(["cache", "--clear"]).exit_code == 0
    assert not (cache / "images").exists()


@pytest.fixture
def videos(tmp_path):
    """OULU-NPU, as folders of frames."""
    for part, file in (("Train", "1_1_01_1"), ("Train", "1_1_01_2"), ("Test", "1_1_36_1")):
        for number in range(4):
            place = tmp_path / "OULU" / f"{part}_files" / file / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (number, 0, 0)).save(place)
    return tmp_path / "OULU"


@pytest.mark.parametrize("name", ["train_label.json", "all_label.json", "frames/x/1.png", "frames"])
def test_lists_and_frames_of_others_are_kept(videos, tmp_path, name):
    place = tmp_path / "out" / "oulu" / name
    place.parent.mkdir(parents=True)
    place.write_text("mine")
    before = everything(tmp_path / "out")
    line = ["prepare-faces", "oulu-npu", videos, tmp_path / "out", "--frames", 2]
    require_clear_end(command(line), "has not written")
    assert everything(tmp_path / "out") == before


def test_what_was_put_beside_our_frames_and_lists_is_kept(videos, tmp_path):
    line = ["prepare-faces", "oulu-npu", videos, tmp_path / "out", "--frames"]
    assert command([*line, 2]).exit_code == 0
    place = tmp_path / "out" / "oulu"
    for name in ("mine_label.json", "notes.txt"):
        (place / name).write_text("mine")
    assert command([*line, 3]).exit_code == 0
    assert len(json.loads((place / "all_label.json").read_text())) == 9
    assert (place / "mine_label.json").read_text() == "mine"
    (place / "frames" / "Train_files" / "1_1_01_1" / "notes.txt").write_text("mine")
    require_clear_end(command([*line, 2]), "has not written (notes.txt)")
    assert (place / "frames" / "Train_files" / "1_1_01_1" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["O/notes.txt", "O/frames/000-live-0/mine.png", "M"])
def test_what_was_put_into_an_unfinished_generated_set_is_kept(tmp_path, name):
    (tmp_path / "fas-synthetic.unfinished").touch()
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine")
    line = ["fas-synthetic", tmp_path, "--subjects", 3, "--frames", 1, "--size", 32]
    require_clear_end(command(line), "")
    assert (tmp_path / name).read_text() == "mine"


READ_ONLY = ["train", "sweep", "report"]


@pytest.mark.parametrize("kind", READ_ONLY)
def test_what_is_finished_in_a_read_only_place_is_shown(good, kind, monkeypatch):
    from domaingrad.bench import disk

    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(disk, "_create", refuse)
    monkeypatch.setattr(disk.FileLock, "acquire", lambda self, **_: refuse(self.lock_file))
    train = [*TRAIN, *good["train command"], "--hold-out", "c", "--out", good["run"]]
    line = {"train": train, "sweep": good["sweep command"], "report": ["report", good["sweep"]]}
    before = everything(good["root"])
    result = command(line[kind])
    assert result.exit_code == 0, result.output
    assert "held out" in result.stdout or "training-domain validation" in result.stdout
    assert everything(good["root"]) == before
