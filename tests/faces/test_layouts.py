"""Sets of faces in their owners' layouts become frames and lists, again and again the same."""

import json
import struct
import sys
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from domaingrad.bench.disk import RunDirectoryError
from domaingrad.bench.domains.data import DataError, News
from domaingrad.bench.names import UnknownNameError
from domaingrad.faces.frames import evenly
from domaingrad.faces.layouts import LAYOUTS, find_videos, prepare_faces
from domaingrad.faces.reader import FACES, FaceOptions

# Videos of each set as it is published, with part and kind of attack as its documentation says.
EXAMPLES = {
    "oulu-npu": {
        "Train_files/1_1_01_1": ("train", ""),
        "Train_files/1_1_01_2": ("train", "print"),
        "Dev_files/6_3_21_3": ("valid", "print"),
        "Test_files/2_2_55_4": ("test", "replay"),
        "Test_files/2_2_55_5": ("test", "replay"),
        "Test_files/2_2_55_1": ("test", ""),
    },
    "casia-fasd": {
        "train_release/1/1": ("train", ""),
        "train_release/1/2": ("train", ""),
        "train_release/20/HR_1": ("train", ""),
        "train_release/1/3": ("train", "warped print"),
        "train_release/1/4": ("train", "warped print"),
        "test_release/30/HR_2": ("test", "warped print"),
        "test_release/1/5": ("test", "cut print"),
        "test_release/1/6": ("test", "cut print"),
        "test_release/1/HR_3": ("test", "cut print"),
        "test_release/1/7": ("test", "replay"),
        "test_release/1/8": ("test", "replay"),
        "test_release/1/HR_4": ("test", "replay"),
    },
    "replay-attack": {
        "train/real/client001_session01_webcam_authenticate_adverse_1": ("train", ""),
        "devel/attack/hand/attack_mobile_client003_session01_mobile_video_adverse": (
            "valid",
            "mobile",
        ),
        "test/attack/fixed/attack_print_client009_session01_highdef_photo_controlled": (
            "test",
            "print",
        ),
        "test/attack/hand/attack_highdef_client009_session01_highdef_video_adverse": (
            "test",
            "highdef",
        ),
        "test/real/client009_session01_webcam_authenticate_controlled_2": ("test", ""),
    },
    "msu-mfsd": {
        "scene01/real/real_client001_android_SD_scene01": ("test", ""),
        "scene01/real/real_client002_laptop_SD_scene01": ("train", ""),
        "scene01/attack/attack_client001_laptop_SD_ipad_video_scene01": ("test", "ipad"),
        "scene01/attack/attack_client002_android_SD_iphone_video_scene01": ("train", "iphone"),
        "scene01/attack/attack_client002_laptop_SD_printed_photo_scene01": ("train", "print"),
    },
}
SUFFIX = {"oulu-npu": ".avi", "casia-fasd": ".avi", "replay-attack": ".mov", "msu-mfsd": ".mp4"}


class Heard:
    """What was said and how far it came."""

    def __init__(self):
        self.said = []
        self.steps = []

    @property
    def news(self):
        return News(self.said.append, lambda *step: self.steps.append(step))


@pytest.fixture
def lay_out(tmp_path, save):
    """Lays the example videos of a set out as folders of frames."""

    def make(kind, frames=4):
        root = tmp_path / kind
        for number, video in enumerate(EXAMPLES[kind]):
            for frame in range(frames):
                save(root / video / f"{frame}.png", 100 * number + frame)
        if kind == "msu-mfsd":
            (root / "train_sub_list.txt").write_text("02\n03\n")
            (root / "test_sub_list.txt").write_text("01\n")
        return root

    return make


def lists_of(folder):
    return {path.name: json.loads(path.read_text()) for path in folder.glob("*_label.json")}


@pytest.mark.parametrize("kind", list(EXAMPLES))
def test_parts_and_attacks_are_those_of_the_documentation(lay_out, tmp_path, kind):
    found = find_videos(kind, lay_out(kind), tmp_path / "out", News())
    assert {video.name: (video.part, video.attack) for video in found} == EXAMPLES[kind]


@pytest.mark.parametrize("kind", list(EXAMPLES))
def test_files_and_deeper_folders_are_found(tmp_path, kind):
    root = tmp_path / "any"
    for video in EXAMPLES[kind]:
        file = root / "unpacked" / f"{video}{SUFFIX[kind]}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        file.with_suffix(".face").touch()
    if kind == "msu-mfsd":
        (root / "unpacked" / "train_sub_list.txt").write_text("02")
        (root / "unpacked" / "test_sub_list.txt").write_text("01")
    found = find_videos(kind, root, tmp_path / "out", News())
    assert {video.name: (video.part, video.attack) for video in found} == EXAMPLES[kind]
    assert all(video.path.is_file() for video in found)


@pytest.mark.parametrize("kind", list(EXAMPLES))
def test_the_lists_are_read_back_with_every_video(lay_out, tmp_path, kind):
    out = tmp_path / "out"
    prepare_faces(kind, lay_out(kind), out, 2, News())
    face = LAYOUTS[kind].face
    data = FACES.read(out, FaceOptions(size=6, least=1), News())
    assert list(data.domains) == [face.letter]
    videos = data.groups[face.letter]
    expected = {name: told for name, told in EXAMPLES[kind].items() if told[0] != "valid"}
    assert dict(zip(videos.names, videos.kinds, strict=True)) == {
        name: attack for name, (_, attack) in expected.items()
    }
    assert videos.of_sample.bincount().tolist() == [2] * len(expected)
    labels = data.domains[face.letter].tensors[1]
    for label, number in zip(labels.tolist(), videos.of_sample.tolist(), strict=True):
        assert data.classes[label] == ("spoof" if videos.kinds[number] else "live")


def test_lists_are_ssdgs_and_leave_development_out_of_all(lay_out, tmp_path):
    prepare_faces("oulu-npu", lay_out("oulu-npu"), tmp_path / "out", 2, News())
    lists = lists_of(tmp_path / "out" / "oulu")
    videos = {
        name.removesuffix("_label.json"): [row["photo_belong_to_video_ID"] for row in rows[::2]]
        for name, rows in lists.items()
    }
    assert videos == {
        "train": ["Train_files/1_1_01_1", "Train_files/1_1_01_2"],
        "valid": ["Dev_files/6_3_21_3"],
        "test": [f"Test_files/2_2_55_{file}" for file in (1, 4, 5)],
        "real": ["Test_files/2_2_55_1", "Train_files/1_1_01_1"],
        "fake": ["Test_files/2_2_55_4", "Test_files/2_2_55_5", "Train_files/1_1_01_2"],
        "all": [
            *(f"Test_files/2_2_55_{file}" for file in (1, 4, 5)),
            *("Train_files/1_1_01_1", "Train_files/1_1_01_2"),
        ],
    }
    assert lists["train_label.json"][0] == {
        "photo_path": "frames/Train_files/1_1_01_1/00001.png",
        "photo_label": 1,
        "photo_belong_to_video_ID": "Train_files/1_1_01_1",
        "photo_attack": "",
    }


@pytest.mark.parametrize(
    ("length", "count", "places"),
    [
        (10, 2, [2, 7]),
        (9, 3, [1, 4, 7]),
        (100, 1, [50]),
        (3, 3, [0, 1, 2]),
        (2, 5, [0, 1]),
        (0, 2, []),
    ],
)
def test_frames_are_the_middles_of_equal_parts(length, count, places):
    assert evenly(length, count) == places


def test_frames_are_taken_in_order_of_their_numbers(tmp_path, save):
    video = tmp_path / "root" / "Train_files" / "1_1_01_1"
    for number in range(12):
        save(video / f"frame_{number}.png", number)
    prepare_faces("oulu-npu", tmp_path / "root", tmp_path / "out", 2, News())
    written = sorted((tmp_path / "out/oulu/frames/Train_files/1_1_01_1").iterdir())
    assert [path.name for path in written] == ["00003.png", "00009.png"]
    for path, number in zip(written, (3, 9), strict=True):
        original = Image.open(video / f"frame_{number}.png")
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(original))


def test_frames_that_are_there_are_kept_and_missing_ones_made(lay_out, tmp_path):
    root, out = lay_out("oulu-npu"), tmp_path / "out"
    prepare_faces("oulu-npu", root, out, 2, News())
    lists, frames = lists_of(out / "oulu"), out / "oulu" / "frames"
    kept, lost = frames / "Train_files/1_1_01_1", frames / "Train_files/1_1_01_2"
    made = kept.stat().st_mtime_ns, kept.stat().st_ino
    (lost / "00001.png").unlink()
    (out / "oulu" / "all_label.json").unlink()
    (frames / "Train_files" / ".1_1_01_2.part").mkdir()
    prepare_faces("oulu-npu", root, out, 2, News())
    assert (kept.stat().st_mtime_ns, kept.stat().st_ino) == made
    assert lists_of(out / "oulu") == lists
    assert (lost / "00001.png").is_file()
    assert not (frames / "Train_files" / ".1_1_01_2.part").exists()


def test_another_number_of_frames_replaces_the_first(lay_out, tmp_path):
    root, out = lay_out("casia-fasd"), tmp_path / "out"
    for frames in (3, 1):
        prepare_faces("casia-fasd", root, out, frames, News())
        rows = lists_of(out / "casia")["all_label.json"]
        counts = Counter(row["photo_belong_to_video_ID"] for row in rows)
        assert set(counts.values()) == {frames}
        assert len(list((out / "casia").rglob("*.png"))) == len(rows)


def test_what_was_prepared_in_the_same_folder_is_no_video(lay_out):
    root = lay_out("oulu-npu")
    for _ in range(2):
        prepare_faces("oulu-npu", root, root, 2, News())
    names = {row["photo_path"][-9:] for row in lists_of(root / "oulu")["all_label.json"]}
    assert names == {"00001.png", "00003.png"}


def test_lists_are_written_last(lay_out, tmp_path):
    root, out = lay_out("oulu-npu"), tmp_path / "out"
    prepare_faces("oulu-npu", root, out, 2, News())
    (root / "Train_files" / "1_1_01_1" / "2.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1 of the 6 videos cannot be read: .*1_1_01_1/2\.png"):
        prepare_faces("oulu-npu", root, out, 4, News())
    assert not lists_of(out / "oulu")
    assert len(list((out / "oulu/frames/Test_files/2_2_55_5").iterdir())) == 4


def test_progress_differences_and_what_is_left_out_are_told(lay_out, tmp_path):
    root, heard = lay_out("replay-attack"), Heard()
    enrolled = root / "enroll" / "real" / "client001_session01_webcam_authenticate_adverse_1.mov"
    enrolled.parent.mkdir(parents=True)
    enrolled.touch()
    prepare_faces("replay-attack", root, tmp_path / "out", 1, heard.news)
    assert heard.steps == [("extracting frames", done, 5) for done in range(1, 6)]
    assert heard.said == [
        f"left out videos that are not of the layout (1): {enrolled.relative_to(root).as_posix()}",
        "expected 1,200 videos of Replay-Attack (200 live), found 5 (2 live)",
    ]


def test_a_folder_of_frames_goes_before_its_file(lay_out, tmp_path):
    root = lay_out("oulu-npu")
    (root / "Train_files" / "1_1_01_1.avi").write_bytes(b"")
    found = find_videos("oulu-npu", root, tmp_path / "out", News())
    assert all(video.path.is_dir() for video in found)
    assert len(found) == len(EXAMPLES["oulu-npu"])


def test_all_videos_without_frames_are_named(lay_out, tmp_path):
    root = lay_out("casia-fasd")
    for clip in ("1", "2"):
        (root / "test_release" / "9" / clip).mkdir(parents=True)
    with pytest.raises(DataError, match=r"none in 2: test_release/9/1, test_release/9/2\. Extract"):
        find_videos("casia-fasd", root, tmp_path / "out", News())


def test_a_video_in_two_places_is_refused(lay_out, tmp_path, save):
    root = lay_out("casia-fasd")
    save(root / "copy" / "train_release" / "1" / "1" / "0.png")
    with pytest.raises(DataError, match=r"each video once, found .*copy.*; keep one"):
        find_videos("casia-fasd", root, tmp_path / "out", News())


def test_another_sets_layout_is_recognised(tmp_path):
    (tmp_path / "train_release" / "1").mkdir(parents=True)
    (tmp_path / "train_release" / "1" / "HR_1.avi").touch()
    with pytest.raises(DataError, match=r"expected OULU-NPU .* found videos as in CASIA-FASD \(tr"):
        find_videos("oulu-npu", tmp_path, tmp_path / "out", News())


def test_an_absent_set_comes_with_whom_to_ask(tmp_path):
    for root in (tmp_path / "gone", tmp_path):
        with pytest.raises(DataError, match="MSU-MFSD is not part of this package: ask Michigan"):
            find_videos("msu-mfsd", root, tmp_path / "out", News())


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ("02", None, r"expected test_sub_list\.txt of MSU-MFSD below"),
        ("02", "03", r"expected subject 1 in train_sub_list\.txt or .* in neither"),
        ("01 02", "01", r"each subject in one list of parts .* found 1 in both"),
    ],
)
def test_subjects_of_msu_are_in_one_list_each(lay_out, tmp_path, train, test, message):
    root = lay_out("msu-mfsd")
    (root / "train_sub_list.txt").write_text(train)
    (root / "test_sub_list.txt").unlink()
    if test is not None:
        (root / "test_sub_list.txt").write_text(test)
    with pytest.raises(DataError, match=message):
        find_videos("msu-mfsd", root, tmp_path / "out", News())


def test_a_kind_or_a_number_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'oulu-npu'"):
        prepare_faces("oulu", tmp_path, tmp_path, 2, News())
    with pytest.raises(DataError, match="at least 1 frame from each video, found 0"):
        prepare_faces("oulu-npu", tmp_path, tmp_path, 0, News())


def test_files_without_pyav_are_refused_before_anything_is_written(lay_out, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    root = lay_out("oulu-npu")
    (root / "Train_files" / "1_1_02_1.avi").touch()
    with pytest.raises(DataError, match="run pip install av, or extract the frames"):
        prepare_faces("oulu-npu", root, tmp_path / "out", 2, News())
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_to_is_named(lay_out, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(RunDirectoryError, match=r"cannot write to .*out/oulu: Not a directory"):
        prepare_faces("oulu-npu", lay_out("oulu-npu"), tmp_path / "out", 2, News())


def record(path, frames=12, codec="mjpeg", corner=None):
    """A video whose frames are grey, each a little lighter than the one before."""
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height = 32, 16
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number in range(frames):
            pixels = np.full((16, 32, 3), 240 * number // frames, dtype=np.uint8)
            if corner is not None:
                pixels[:8, :8] = corner
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def test_frames_of_a_file_are_those_recorded(tmp_path):
    record(tmp_path / "root" / "Train_files" / "1_1_01_1.avi")
    prepare_faces("oulu-npu", tmp_path / "root", tmp_path / "out", 3, News())
    written = sorted((tmp_path / "out/oulu/frames/Train_files/1_1_01_1").iterdir())
    assert [path.name for path in written] == ["00002.png", "00006.png", "00010.png"]
    for path, number in zip(written, (2, 6, 10), strict=True):
        pixels = np.asarray(Image.open(path)).astype(int)
        assert pixels.shape == (16, 32, 3)
        assert np.abs(pixels - 20 * number).max() <= 4  # JPEG's rounding


def test_frames_are_turned_as_the_file_says(tmp_path):
    file = tmp_path / "root" / "Train_files" / "1_1_01_1.mp4"
    record(file, frames=1, codec="mpeg4", corner=255)
    content = bytearray(file.read_bytes())
    # The matrix of the track's header (ISO/IEC 14496-12, 8.3.2), x′ = −y and y′ = x: clockwise.
    start = content.find(b"tkhd") + 44
    content[start : start + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    file.write_bytes(content)
    prepare_faces("oulu-npu", tmp_path / "root", tmp_path / "out", 1, News())
    pixels = np.asarray(Image.open(next((tmp_path / "out").rglob("*.png"))))
    assert pixels.shape == (32, 16, 3)
    assert pixels[:6, -6:].min() > 200
    assert pixels[:6, :6].max() < 50


def test_a_file_cut_short_gives_what_it_holds_and_is_told(tmp_path):
    file = tmp_path / "root" / "Train_files" / "1_1_01_1.avi"
    record(file, frames=120)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) * 2 // 3])
    heard = Heard()
    prepare_faces("oulu-npu", tmp_path / "root", tmp_path / "out", 3, heard.news)
    assert len(list((tmp_path / "out/oulu/frames/Train_files/1_1_01_1").iterdir())) == 3
    assert heard.said[-1] == "videos decoded in part only (1): Train_files/1_1_01_1"


def test_a_file_that_is_no_video_is_named(tmp_path):
    pytest.importorskip("av")
    file = tmp_path / "root" / "Train_files" / "1_1_01_1.avi"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"no video")
    with pytest.raises(DataError, match=r"1 of the 1 videos cannot be read: .*1_1_01_1\.avi"):
        prepare_faces("oulu-npu", tmp_path / "root", tmp_path / "out", 3, News())
