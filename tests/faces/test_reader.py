"""Lists of frames of live faces and attacks are read, and what is wrong with them is named."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from domaingrad.bench.domains import load
from domaingrad.bench.domains.data import DataError, News
from domaingrad.bench.domains.decoding import decode
from domaingrad.bench.names import UnknownNameError
from domaingrad.faces.reader import FACES, FaceOptions, of_protocol
from domaingrad.faces.sets import FACE_SETS, PROTOCOLS, known_set

SMALL = FaceOptions(size=6)


def entry(path, label, video=None, attack=None):
    row = {"photo_path": str(path), "photo_label": label}
    optional = {"photo_belong_to_video_ID": video, "photo_attack": attack}
    return row | {key: value for key, value in optional.items() if value is not None}


def write(folder, rows, name="all"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}_label.json").write_text(json.dumps(rows), encoding="utf-8")


def read(root, options=SMALL):
    return FACES.read(root, options, News())


@pytest.fixture
def face_set(save):
    """Writes frames into folders of videos, each with a label, and the list of all."""

    def make(folder: Path, videos: dict[str, int], frames=2, attack="print"):
        rows = []
        for number, (video, label) in enumerate(videos.items()):
            for frame in range(frames):
                path = f"frames/{video}/{frame}.png"
                save(folder / path, 10 * number + frame)
                rows.append(entry(path, label, attack=None if label else attack))
        write(folder, rows)
        return rows

    return make


@pytest.fixture
def root(tmp_path, face_set):
    root = tmp_path / "faces"
    face_set(root / "oulu", {"a": 1, "b": 0})
    face_set(root / "mine", {"a": 1, "b": 0, "c": 0}, attack="mask")
    return root


def videos_of(data, domain):
    """Frames by name of their video."""
    videos = data.groups[domain]
    return dict(Counter(videos.names[number] for number in videos.of_sample))


def test_frames_videos_and_attacks_are_those_listed(root):
    data = read(root)
    assert data.name == "faces"
    assert list(data.domains) == ["O", "mine"]
    assert data.classes == ("live", "spoof")
    stored, labels = data.domains["mine"].tensors
    assert labels.tolist() == [0, 0, 1, 1, 1, 1]
    files = [root / "mine" / "frames" / v / f"{f}.png" for v in "abc" for f in range(2)]
    stored = stored[torch.arange(len(stored))]
    assert torch.equal(stored, torch.stack([decode(file, 6) for file in files]))
    videos = data.groups["mine"]
    assert videos.of_sample.tolist() == [0, 0, 1, 1, 2, 2]
    assert videos.names == tuple(f"mine/frames/{video}" for video in "abc")
    assert videos.kinds == ("", "mask", "mask")


def test_the_kind_is_known_to_load(root):
    data = load(f"faces:{root}", {"size": 6}, News(), torch.Generator())
    assert data.fingerprint == read(root).fingerprint


def test_the_fingerprint_does_not_depend_on_the_place(root, tmp_path):
    first = read(root).fingerprint
    root.rename(tmp_path / "elsewhere")
    assert read(tmp_path / "elsewhere").fingerprint == first


@pytest.mark.parametrize(
    ("name", "letter"),
    [
        *(("oulu", "O"), ("OULU-NPU", "O"), ("O", "O"), ("casia", "C"), ("CASIA_FASD", "C")),
        *(("casia-mfsd", "C"), ("c", "C"), ("replay", "I"), ("Replay-Attack", "I")),
        *(("idiap", "I"), ("I", "I"), ("msu", "M"), ("MSU-MFSD", "M"), ("m", "M")),
    ],
)
def test_folders_of_known_sets_are_recognised(name, letter):
    assert known_set(name).letter == letter


@pytest.mark.parametrize("name", ["mine", "oulu2", "casia-surf", "msu-ussa", ""])
def test_other_folders_are_domains_of_their_own(name):
    assert known_set(name) is None


def test_published_numbers_of_videos_add_up():
    totals = {letter: sum(face.videos[0]) for letter, face in FACE_SETS.items()}
    assert totals == {"O": 4950, "C": 600, "I": 1200, "M": 280}
    every = [count for face in FACE_SETS.values() for count in face.videos]
    assert len(every) == len({*every})


@pytest.mark.parametrize(
    ("names", "videos"),
    [
        (("0000.png", "0001.png"), ["x"]),
        (("frame_1.png", "frame_125.0.png"), ["x"]),
        (("Frame7.png", "img-8.png"), ["x"]),
        (("1_1_01_1_001.png", "1_1_01_1_002.png"), ["x/1_1_01_1"]),
        (("a.mov_1.png", "a.mov_2.png", "b.mov_1.png"), ["x/a.mov", "x/b.mov"]),
        (("7_frame0.png", "7_frame1.png"), ["x/7"]),
        (("alice.png", "bob.png"), ["x/alice", "x/bob"]),
        (("client001.png", "client002.png"), ["x/client001", "x/client002"]),
    ],
)
def test_videos_without_a_number_are_told_by_folder_and_name(root, save, names, videos):
    for number, name in enumerate(names):
        save(root / "mine" / "x" / name, number)
    write(root / "mine", [entry(f"x/{name}", 0) for name in names])
    assert list(read(root).groups["mine"].names) == [f"mine/{video}" for video in videos]


def test_numbers_of_videos_count_within_their_list(root):
    (root / "mine" / "all_label.json").unlink()
    live = [entry(f"frames/a/{f}.png", 1, video=0) for f in range(2)]
    spoof = [entry(f"frames/{v}/{f}.png", 0, video=0) for v in "bc" for f in range(2)]
    write(root / "mine", live, "real")
    write(root / "mine", spoof, "fake")
    data = read(root)
    assert videos_of(data, "mine") == {"real/0": 2, "fake/0": 4}
    assert "mine: read real_label.json, fake_label.json" in data.notes


def test_named_videos_may_be_spread_over_lists(root):
    (root / "mine" / "all_label.json").unlink()
    for frame, name in enumerate(("train", "test")):
        rows = [entry(f"frames/{v}/{frame}.png", int(v == "a"), video=v) for v in "abc"]
        write(root / "mine", rows, name)
    assert videos_of(read(root), "mine") == {"a": 2, "b": 2, "c": 2}


def test_the_list_of_all_goes_before_the_others(root):
    write(root / "mine", [entry("gone.png", 1)], "train")
    assert len(read(root).domains["mine"]) == 6


def test_paths_may_be_absolute_or_relative_to_the_root(root):
    rows = [entry(root / "mine/frames/a/0.png", 1), entry("mine/frames/b/0.png", 0)]
    write(root / "mine", rows)
    data = read(root)
    assert data.groups["mine"].names == ("mine/frames/a", "mine/frames/b")
    assert data.groups["mine"].kinds == ("", "unnamed")
    assert any("attacks without a kind count as one kind" in note for note in data.notes)


def test_a_number_of_videos_that_differs_is_noted(root):
    assert read(root).notes == (
        "O: expected 4,950 videos of OULU-NPU (990 live and 3,960 attacks), found 2 (1 live and 1 "
        "attacks)",
    )


def test_a_set_under_another_sets_name_is_refused(root, face_set, monkeypatch):
    monkeypatch.setitem(FACE_SETS, "M", replace(FACE_SETS["M"], videos=((1, 3),)))
    videos = {"a": 1, "b": 0, "c": 0, "d": 0}
    face_set(root / "casia", videos, frames=1)
    with pytest.raises(DataError, match=r"casia is read as CASIA-FASD, .* of MSU-MFSD, 1 live and"):
        read(root)
    (root / "casia").rename(root / "msu")
    assert not any(note.startswith("M: expected") for note in read(root).notes)


def test_all_missing_frames_of_all_sets_are_found_at_once(root, face_set):
    for name in ("oulu", "mine"):
        rows = json.loads((root / name / "all_label.json").read_text())
        write(root / name, rows + [entry(f"gone/{name}{i}.png", 1) for i in range(6)])
    with pytest.raises(DataError) as caught:
        read(root)
    message = str(caught.value)
    assert message.startswith("12 of the 22 frames")
    assert "gone/mine5.png" in message
    assert message.count(".png") == 10
    assert "and 2 more" in message


def test_a_video_without_frames_is_refused(root):
    (root / "mine" / "frames" / "d").mkdir()
    with pytest.raises(DataError, match=r"found none in 1: .*frames/d\. Extract them"):
        read(root)


def test_empty_folders_that_are_no_videos_are_left_alone(root):
    (root / "mine" / "notes").mkdir()
    assert len(read(root).domains) == 2


def test_a_domain_of_one_class_is_noted(root, face_set):
    face_set(root / "mine", {"a": 1, "b": 1})
    assert "class spoof has no image in domain mine" in read(root).notes


def test_one_class_in_all_domains_is_refused_but_for_evaluation(root, face_set):
    for name in ("oulu", "mine"):
        face_set(root / name, {"a": 1, "b": 1})
    with pytest.raises(DataError, match=r"two classes or more, found 1 \(live\)"):
        read(root)
    assert read(root, replace(SMALL, least=1)).classes == ("live",)


def test_a_video_of_both_classes_is_refused(root):
    write(root / "mine", [entry(f"frames/{v}/0.png", int(v == "a"), video=7) for v in "abc"])
    with pytest.raises(DataError, match=r"found several in 1: 7 of mine"):
        read(root)


def test_corrupt_frames_are_named_and_left_out_on_request_alone(root):
    for frame in range(2):
        (root / "mine" / "frames" / "c" / f"{frame}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"frames/c/0\.png"):
        read(root)
    data = read(root, replace(SMALL, skip_unreadable=True))
    assert data.groups["mine"].names == ("mine/frames/a", "mine/frames/b")
    assert "mine: videos without a readable frame (1): mine/frames/c" in data.notes


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"photo_path": "a.png", "label": 1}],
            r"entry 1 has no 'photo_label'.*nearest is 'label'",
        ),
        ([{"photo_label": 1}], r"entry 1 has no 'photo_path', only photo_label"),
        ([entry("", 1)], r"expected a path as photo_path, found ''"),
        ([entry("a.png", 2)], r"1 for live or 0 for spoof as photo_label, found 2"),
        ([entry("a.png", "1")], r"as photo_label, found '1'"),
        ([entry("a.png", True)], r"as photo_label, found True"),
        ([entry("a.png", 1, video=1.5)], r"a number or a name as .*video_ID, found 1\.5"),
        ([entry("a.png", 1, video=" ")], r"a number or a name as .*video_ID, found ' '"),
        ([entry("a.png", 0, attack=3)], r"a name as photo_attack, found 3"),
        ([entry("a.png", 1, attack="print")], r"no photo_attack of a live face, found 'print'"),
        ([entry("frames/a/0.png", 1)] * 2, r"more than once \(1\): .*a/0\.png"),
        ([], r"all_label\.json lists no frames"),
        ({"a": 1}, r"expected a list of objects of photo_path, photo_label"),
        ([3], r"expected a list of objects"),
    ],
)
def test_faults_of_a_list_are_named(root, rows, message):
    write(root / "mine", rows)
    with pytest.raises(DataError, match=message):
        read(root)


def test_what_is_no_json_is_named(root):
    (root / "mine" / "all_label.json").write_text("[")
    with pytest.raises(DataError, match=r"all_label\.json cannot be read: "):
        read(root)


def test_absent_sets_come_with_whom_to_ask(tmp_path):
    for place in (tmp_path / "gone", tmp_path):
        with pytest.raises(DataError) as caught:
            read(place)
        for face in FACE_SETS.values():
            assert f"{face.title} is not part of this package: ask " in str(caught.value)
            assert f"{face.folder}/all_label.json" in str(caught.value)


def test_a_set_whose_lists_are_not_written_yet_is_refused(root, save):
    save(root / "CASIA-FASD" / "frames" / "a" / "0.png")
    with pytest.raises(DataError, match=r"in .*CASIA-FASD, found none\. Have prepare-faces casia"):
        read(root)


def test_folders_without_lists_are_noted(root, save):
    save(root / "oulu-npu" / "a" / "0.png")
    assert "folders without lists are no domains: oulu-npu" in read(root).notes


def test_one_set_in_two_folders_is_refused(root, face_set):
    face_set(root / "OULU-NPU", {"a": 1})
    with pytest.raises(DataError, match=r"folders OULU-NPU, oulu are all O; keep one"):
        read(root)


def test_the_folder_of_one_set_is_no_root(root):
    with pytest.raises(DataError, match=r"give the folder above it, .*faces\."):
        read(root / "oulu")


@pytest.fixture
def four(tmp_path, face_set):
    for name in ("oulu", "casia", "replay", "msu", "mine"):
        face_set(tmp_path / "four" / name, {"a": 1, "b": 0}, frames=1)
    return read(tmp_path / "four")


def test_a_protocol_has_its_domains_alone(four):
    for name, (sources, held_out) in PROTOCOLS.items():
        data, left_out = of_protocol(four, name)
        assert left_out == held_out
        assert {*data.domains} == {*data.groups} == {*sources, held_out}
        letters, _, last = name.partition("-")
        assert (letters.split("&"), last) == (list(sources), held_out)


def test_a_protocol_of_other_domains_has_another_fingerprint(four):
    whole = of_protocol(four, "O&C&I-M")[0]
    assert of_protocol(whole, "O&M&I-C")[0] is whole
    found = {data.fingerprint for data in (four, whole, of_protocol(four, "M&I-C")[0])}
    assert len(found) == 3


def test_a_misspelt_protocol_is_answered_with_the_nearest(four):
    for written, meant in (("o&c&i-m", "O&C&I-M"), ("M&I->C", "M&I-C")):
        with pytest.raises(UnknownNameError, match=f"did you mean '{meant}'"):
            of_protocol(four, written)


def test_a_protocol_without_its_sets_says_whom_to_ask(root):
    with pytest.raises(DataError, match=r"needs the domains C, I, M; faces has O, mine\. CASIA"):
        of_protocol(read(root), "M&I-C")


@pytest.mark.parametrize("written", [int, str])
def test_numbers_of_videos_are_of_their_list_as_text_too(tmp_path, save, written):
    """Lists of SSDG number videos from 0 each; those of two lists are not the same videos."""
    for name, label in (("train", 1), ("test", 0)):
        rows = []
        for video in range(2):
            path = save(tmp_path / "faces" / "mine" / name / f"{video}.png", 2 * label + video)
            rows.append(entry(path, label, written(video), None if label else "print"))
        write(tmp_path / "faces" / "mine", rows, name)
        rows = [{**row, "photo_path": row["photo_path"].replace("mine", "other")} for row in rows]
        write(tmp_path / "faces" / "other", rows, name)
    for path in (tmp_path / "faces" / "mine").rglob("*.png"):
        copy = Path(str(path).replace("mine", "other"))
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    data = read(tmp_path / "faces")
    assert {*data.groups["mine"].names} == {"train/0", "train/1", "test/0", "test/1"}
