"""The made-up faces and attacks: same bytes, lists that agree, true marks and misleading ones."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from domaingrad.bench.disk import ForeignFileError
from domaingrad.bench.domains.data import DataError
from domaingrad.faces.synthetic import sample_sheet, write_fas_synthetic
from domaingrad.faces.synthetic.dataset import split_of
from domaingrad.faces.synthetic.videos import video

DOMAINS = ("C", "I", "M", "O")
SMALL = {"size": 32, "subjects": 3, "frames": 2}
PEOPLE = 12


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("fas")
    write_fas_synthetic(root, **SMALL)
    return root


@pytest.fixture(scope="module")
def samples():
    """First frames, values from 0 to 1, shape [n, 64, 64, 3], by domain and attack."""
    return {
        (domain, attack): np.stack(
            [pixels(video(0, domain, person, attack, 0, 64, 1)[0]) for person in range(PEOPLE)]
        )
        for domain in DOMAINS
        for attack in ("", "print", "replay")
    }


def pixels(file: bytes):
    return np.asarray(Image.open(io.BytesIO(file)), float) / 255


def digests(root: Path):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def rows(root: Path, domain: str, name: str):
    return json.loads((root / domain / f"{name}_label.json").read_text())


def subject(row):
    return row["photo_path"].split("/")[1].split("-")[0]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(written, tmp_path):
    write_fas_synthetic(tmp_path / "same", **SMALL)
    first = digests(written)
    assert digests(tmp_path / "same") == first
    file = video(1, "O", 0, "", 0, 32, 1)[0]
    assert hashlib.sha256(file).hexdigest() not in first.values()


def test_no_frame_is_like_another(written):
    frames = [digest for name, digest in digests(written).items() if name.endswith(".jpg")]
    # 4 domains of 3 people with 4 videos of 2 frames.
    assert len(frames) == len(set(frames)) == 4 * 3 * 4 * 2


def test_every_frame_is_listed_and_every_listed_one_is_there(written):
    assert sorted(path.name for path in written.iterdir()) == [*DOMAINS, "fas-synthetic.json"]
    for domain in DOMAINS:
        listed = [row["photo_path"] for row in rows(written, domain, "all")]
        there = (written / domain).rglob("*.jpg")
        assert sorted(listed) == sorted(
            path.relative_to(written / domain).as_posix() for path in there
        )
        for path in listed:
            with Image.open(written / domain / path) as image:
                assert image.size == (32, 32)
                assert image.mode == "RGB"


@pytest.mark.parametrize("parts", [("train", "valid", "test"), ("real", "fake")])
def test_lists_are_parts_of_all(written, parts):
    for domain in DOMAINS:
        together = [row for part in parts for row in rows(written, domain, part)]
        assert all(rows(written, domain, part) for part in parts)
        key = json.dumps
        assert sorted(map(key, together)) == sorted(map(key, rows(written, domain, "all")))


def test_labels_videos_and_people(written):
    for domain in DOMAINS:
        assert {row["photo_label"] for row in rows(written, domain, "real")} == {1}
        assert {row["photo_label"] for row in rows(written, domain, "fake")} == {0}
        assert {row["photo_attack"] for row in rows(written, domain, "real")} == {""}
        assert {row["photo_attack"] for row in rows(written, domain, "fake")} == {"print", "replay"}
        every = rows(written, domain, "all")
        folders = {}
        for row in every:
            folders.setdefault(row["photo_belong_to_video_ID"], set()).add(
                (Path(row["photo_path"]).parent, row["photo_attack"])
            )
        assert len(folders) == 3 * 4
        assert all(len(folder) == 1 for folder in folders.values())
        people = [
            {subject(row) for row in rows(written, domain, split)}
            for split in ("train", "valid", "test")
        ]
        assert sum(map(len, people)) == len(set.union(*people)) == 3


def test_three_fifths_of_the_people_are_for_training():
    splits = [split_of(person, 20) for person in range(20)]
    assert [splits.count(split) for split in ("train", "valid", "test")] == [12, 4, 4]


def strongest_wave(images):
    """How much stronger the strongest fine wave is than a typical one, log, mean over images.

    Waves of a period under 3.6 pixels in brightness, of the middle of the picture, where neither
    a sheet nor a screen ends. A periodic pattern is one point of the spectrum; noise and edges
    spread over all of them.
    """
    middle = images.mean(-1)[:, 16:48, 16:48]
    window = np.hanning(32)[:, None] * np.hanning(32)
    centred = middle - middle.mean((1, 2), keepdims=True)
    power = np.abs(np.fft.fft2(centred * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(32)[:, None], np.fft.fftfreq(32))
    fine = power[:, frequency > 1 / 3.6]
    return float(np.log(fine.max(1) / np.median(fine, axis=1)).mean())


@pytest.mark.parametrize("attack", ["print", "replay"])
def test_dots_and_grids_are_waves_that_live_faces_lack(samples, attack):
    for domain in DOMAINS:
        live = strongest_wave(samples[domain, ""])
        assert strongest_wave(samples[domain, attack]) > live + np.log(1.5)


def test_shortcuts_point_one_way_in_two_domains_and_the_other_in_two(samples):
    def differences(measure):
        return [
            measure(samples[domain, ""])
            - (measure(samples[domain, "print"]) + measure(samples[domain, "replay"])) / 2
            for domain in DOMAINS
        ]

    brightness = differences(np.mean)
    warmth = differences(lambda images: np.mean(images[..., 0] - images[..., 2]))
    for cue in (brightness, warmth):
        assert sum(difference > 0.02 for difference in cue) == 2
        assert sum(difference < -0.02 for difference in cue) == 2
    assert np.sign(brightness).tolist() != np.sign(warmth).tolist()


def test_frames_of_a_video_differ_but_little():
    for attack in ("", "print", "replay"):
        one, two = map(pixels, video(0, "O", 0, attack, 0, 64, 2))
        other = pixels(video(0, "O", 1, attack, 0, 64, 1)[0])
        assert 0 < np.abs(one - two).mean() < np.abs(one - other).mean()


def test_what_is_whole_is_left_as_it_is(written):
    before = {path: path.stat().st_mtime_ns for path in written.rglob("*")}
    calls = []
    write_fas_synthetic(written, **SMALL, advance=lambda *news: calls.append(news))
    assert {path: path.stat().st_mtime_ns for path in written.rglob("*")} == before
    assert calls == []


def test_a_killed_write_is_done_anew(written, tmp_path):
    class KilledError(Exception):
        pass

    def kill(what, done, total):
        if done == total // 2:
            raise KilledError

    with pytest.raises(KilledError):
        write_fas_synthetic(tmp_path, **SMALL, advance=kill)
    left = digests(tmp_path)
    assert "fas-synthetic.json" not in left
    damaged = next(name for name in left if name.endswith(".jpg"))
    (tmp_path / damaged).write_bytes(b"half a fra")
    write_fas_synthetic(tmp_path, **SMALL)
    assert digests(tmp_path) == digests(written)


def test_progress_ends_with_all(tmp_path):
    calls = []
    few = SMALL | {"frames": 1}
    write_fas_synthetic(tmp_path, **few, advance=lambda *news: calls.append(news))
    assert calls == [("videos", done, 48) for done in range(49)]


def test_other_settings_want_another_folder(written):
    before = digests(written)
    with pytest.raises(DataError, match=r"expected .*'seed': 1.*, found .*'seed': 0"):
        write_fas_synthetic(written, seed=1, **SMALL)
    assert digests(written) == before


def test_settings_that_cannot_be_read_are_said(tmp_path):
    (tmp_path / "fas-synthetic.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        write_fas_synthetic(tmp_path, **SMALL)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "O").mkdir()
    (tmp_path / "O" / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match=r"expected an empty folder .*, found O;"):
        write_fas_synthetic(tmp_path, **SMALL)
    assert (tmp_path / "O" / "thesis.tex").read_text() == "years of work"
    with pytest.raises(DataError, match="found a file"):
        write_fas_synthetic(tmp_path / "O" / "thesis.tex", **SMALL)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": -1}, "expected seed of at least 0, found -1"),
        ({"subjects": 2}, "expected subjects of at least 3, found 2"),
        ({"frames": 0}, "expected frames of at least 1, found 0"),
        ({"size": 16}, "expected a size from 32 to 1024 pixels, found 16"),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path, settings, message):
    with pytest.raises(DataError, match=message):
        write_fas_synthetic(tmp_path / "new", **settings)
    assert not (tmp_path / "new").exists()


def test_the_sheet_is_a_small_picture(tmp_path):
    sample_sheet(tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert min(sheet.size) > 800
    assert (tmp_path / "sheet.png").stat().st_size < 300_000


def test_the_sheet_replaces_nobodys_picture(tmp_path):
    (tmp_path / "sheet.png").write_bytes(b"mine")
    with pytest.raises(ForeignFileError, match="has not written"):
        sample_sheet(tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").read_bytes() == b"mine"
