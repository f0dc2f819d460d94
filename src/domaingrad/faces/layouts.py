"""From the files of a face anti-spoofing set, as its owners send them, to frames and lists.

The layouts are written down from public documentation and from code that reads them, not from the
licensed files themselves:

- OULU-NPU: ``{Train,Dev,Test}_files/PHONE_SESSION_USER_FILE.avi``; file 1 is live, 2 and 3 are
  printed, 4 and 5 replayed.
- CASIA-FASD: ``{train,test}_release/SUBJECT/CLIP.avi``; 1, 2 and HR_1 are live, 3, 4 and HR_2 are
  warped prints, 5, 6 and HR_3 prints with cut eyes, 7, 8 and HR_4 replayed.
- Replay-Attack: ``{train,devel,test}/``, in it ``real/client….mov`` and
  ``attack/{fixed,hand}/attack_KIND_….mov`` with the kinds print, highdef (a tablet's display) and
  mobile (a telephone's); ``enroll`` is left out.
- MSU-MFSD: ``scene01/{real,attack}/….{mov,mp4}`` with printed_photo, iphone_video or ipad_video in
  an attack's name, and the subjects of each part in ``{train,test}_sub_list.txt``.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

from domaingrad.bench.disk import (
    MARK,
    ForeignFileError,
    creating,
    make,
    read,
    remove_ours,
    replace,
    require_no_link,
    require_ours,
)
from domaingrad.bench.domains.data import DataError, News
from domaingrad.bench.domains.decoding import in_threads, is_image
from domaingrad.bench.domains.files import listed, visible
from domaingrad.bench.names import look_up

from .frames import UnreadableError, frames_of, pyav
from .sets import CASIA, MSU, OULU, REPLAY, FaceSet

Kind = Literal["oulu-npu", "casia-fasd", "replay-attack", "msu-mfsd"]
Part = Literal["train", "valid", "test"]

VIDEO_SUFFIXES = frozenset({".avi", ".mov", ".mp4"})
FRAMES = "frames"
"""Folder of the frames, beside the lists."""
MARKER = "prepare-faces.json"
"""Says of a folder that its lists and frames are ours; written first."""
LISTS = ("train", "valid", "test", "real", "fake", "all")
FRAME = re.compile(r"\d{5}\.png")
"""Names of the frames of a video."""

PARTS: dict[str, Part] = {
    "train": "train", "dev": "valid", "devel": "valid", "test": "test",
}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """Where a set's videos lie, and what their names tell."""

    face: FaceSet
    told: str
    """For messages."""
    pattern: re.Pattern[str]
    """Of a path without its suffix; the group ``video`` names the video, ``part`` its part."""
    attack: Mapping[str, str]
    """Kinds by the group ``kind``; one that is not here, or no group, is a live face."""


LAYOUTS: dict[str, Layout] = {
    layout.face.kind: layout
    for layout in (
        Layout(
            OULU,
            "Train_files/1_1_01_1.avi",
            re.compile(
                r"(.*/)?(?P<video>(?P<part>Train|Dev|Test)_files/\d_\d_\d\d_(?P<kind>[1-5]))"
            ),
            {"2": "print", "3": "print", "4": "replay", "5": "replay"},
        ),
        Layout(
            CASIA,
            "train_release/1/HR_1.avi",
            re.compile(
                r"(.*/)?(?P<video>(?P<part>train|test)_release/\d+/(?P<kind>[1-8]|HR_[1-4]))"
            ),
            {
                **dict.fromkeys(("3", "4", "HR_2"), "warped print"),
                **dict.fromkeys(("5", "6", "HR_3"), "cut print"),
                **dict.fromkeys(("7", "8", "HR_4"), "replay"),
            },
        ),
        Layout(
            REPLAY,
            "train/real/client001_session01_webcam_authenticate_adverse_1.mov",
            re.compile(
                r"(.*/)?(?P<video>(?P<part>train|devel|test)/"
                r"(real/client|attack/(fixed|hand)/attack_(?P<kind>print|highdef|mobile)_)[^/]+)"
            ),
            {kind: kind for kind in ("print", "highdef", "mobile")},
        ),
        Layout(
            MSU,
            "scene01/real/real_client001_android_SD_scene01.mp4",
            re.compile(
                r"(.*/)?(?P<video>scene01/(real/real|(?P<spoof>attack)/attack)"
                r"_client(?P<subject>\d+)_[^/_]+_[^/_]+"
                r"(?(spoof)_(?P<kind>printed_photo|iphone_video|ipad_video))_scene01)"
            ),
            {"printed_photo": "print", "iphone_video": "iphone", "ipad_video": "ipad"},
        ),
    )
}
"""Every layout by the name of its set."""


@dataclass(frozen=True)
class FaceVideo:
    """A video of a set: a file, or a folder of its frames."""

    name: str
    path: Path
    part: Part
    attack: str
    """Empty for a live face."""


def prepare_faces(kind: Kind, root: Path, out: Path, frames: int, news: News) -> None:
    """Take frames from each video of a set and write the lists that ``faces:OUT`` reads.

    Frames are the middles of equal parts of a video, whole, in PNG: faces are not looked for, so
    where they are to be cut out, as is usual, do it first and give folders of the cut-out frames.
    Such a folder has its video's name and goes before the file. Video files need PyAV, ``pip
    install av``.

    Nothing is overwritten or removed but what an earlier call wrote: a folder of ours says so.

    As in SSDG's script, the lists of all, real and fake leave out the development part. They are
    written last; run again, what was finished is kept and the rest is done.

    Args:
        kind: of the set.
        root: where its files are, at any depth.
        out: gets a folder for the set, with lists and frames.
        frames: from each video, or all of a shorter one.
        news: hears of progress, of files that the layout does not name, of numbers of videos other
            than the published ones, and of videos that could be decoded in part only.

    Raises:
        UnknownNameError: another kind.
        DataError: nothing of the layout in root, videos without frames or that cannot be read, no
            PyAV for video files.
        ForeignFileError: lists or frames in out that are not ours.
    """
    layout = look_up("set of faces", kind, LAYOUTS)
    target = out / layout.face.folder
    _require_ours(target)
    if frames < 1:
        raise DataError(f"expected at least 1 frame from each video, found {frames}.")
    videos = find_videos(kind, root, target, news)
    _tell_counts(layout.face, videos, news)
    if any(not _is_done(target, video, frames) and video.path.is_file() for video in videos):
        pyav()
    _claim(target, kind)
    for name in LISTS:
        _list_of(target, name).unlink(missing_ok=True)  # they name frames of another run
    broken = _extract_each(videos, target, frames, news)
    if broken:
        news.say(f"videos decoded in part only ({len(broken):,}): {listed(broken)}")
    _write_lists(videos, target)


def find_videos(kind: Kind, root: Path, target: Path, news: News) -> list[FaceVideo]:
    """The videos below a root that the set's layout names, sorted.

    Args:
        kind: of the set.
        root: where its files are.
        target: where frames are written; not looked into.
        news: hears of files that the layout does not name.

    Raises:
        DataError: there are none, there are some without frames, or some twice.
    """
    layout = look_up("set of faces", kind, LAYOUTS)
    if not root.is_dir():
        raise DataError(f"there is no folder {root}. {layout.face.obtained()}.")
    files, folders, empty, others = _sorted_out(layout, root, target)
    if without := sorted(name for name in empty if not files[name] and not folders[name]):
        raise DataError(
            f"expected frames in each video of {root}, found none in {len(without):,}: "
            f"{listed(without)}. Extract them, or remove the folders."
        )
    names = sorted({name for found in (files, folders) for name in found if found[name]})
    if not names:
        raise DataError(
            f"expected {layout.face.title} in {root}, as {layout.told} or a folder of its frames, "
            f"found {_instead(others)}. {layout.face.obtained()}."
        )
    if others:
        news.say(f"left out videos that are not of the layout ({len(others):,}): {listed(others)}")
    subjects = _parts_of_subjects(root) if layout.face is MSU else {}
    videos = []
    for name in names:
        places = folders[name] or files[name]
        if len(places) > 1:
            raise DataError(f"expected each video once, found {listed(places)}; keep one of them.")
        match = layout.pattern.fullmatch(name)
        assert match is not None
        said = match.groupdict()
        attack = layout.attack.get(said["kind"] or "", "")
        videos.append(FaceVideo(name, places[0], _part(said, subjects), attack))
    return videos


Found = defaultdict[str, list[Path]]


def _sorted_out(
    layout: Layout, root: Path, target: Path
) -> tuple[Found, Found, set[str], list[str]]:
    """Files and folders of frames by video, folders without frames, and videos of no layout."""
    files, folders = defaultdict[str, list[Path]](list), defaultdict[str, list[Path]](list)
    empty, others = set[str](), list[str]()
    for folder, inside, names in visible(root):
        if folder.resolve().is_relative_to(target.resolve()):
            inside.clear()
            continue
        place = folder.relative_to(root)
        if match := layout.pattern.fullmatch(_bare(place)):
            if any(map(is_image, names)):
                folders[match["video"]].append(folder)
            else:
                empty.add(match["video"])
        for name in names:
            if Path(name).suffix.lower() in VIDEO_SUFFIXES:
                if match := layout.pattern.fullmatch(_bare(place / name)):
                    files[match["video"]].append(folder / name)
                else:
                    others.append((place / name).as_posix())
    return files, folders, empty, others


def _bare(path: PurePath) -> str:
    return (path.with_suffix("") if path.suffix.lower() in VIDEO_SUFFIXES else path).as_posix()


def _instead(others: Sequence[str]) -> str:
    if not others:
        return "no video at all"
    for layout in LAYOUTS.values():
        if any(layout.pattern.fullmatch(_bare(PurePath(other))) for other in others):
            return f"videos as in {layout.face.title} ({listed(others, most=3)})"
    return f"other videos ({listed(others, most=3)})"


def _part(said: Mapping[str, str], subjects: Mapping[int, Part]) -> Part:
    if "part" in said:
        return PARTS[said["part"].lower()]
    subject = int(said["subject"])
    if subject not in subjects:
        raise DataError(
            f"expected subject {subject} in train_sub_list.txt or test_sub_list.txt, found it in "
            f"neither; complete the lists, or remove its videos."
        )
    return subjects[subject]


def _parts_of_subjects(root: Path) -> dict[int, Part]:
    """Part by number of a subject, as MSU-MFSD has it in two files."""
    part_of: dict[int, Part] = {}
    parts: tuple[Part, ...] = ("train", "test")
    for part in parts:
        name = f"{part}_sub_list.txt"
        places = [folder / name for folder, _, files in visible(root) if name in files]
        if not places:
            raise DataError(
                f"expected {name} of {MSU.title} below {root}, found none; it comes with the "
                f"videos and says which subjects are for {part}."
            )
        for subject in map(int, re.findall(r"\d+", read(places[0]).decode(errors="replace"))):
            if part_of.setdefault(subject, part) != part:
                raise DataError(
                    f"expected each subject in one list of parts below {root}, found {subject} in "
                    f"both; correct train_sub_list.txt or test_sub_list.txt."
                )
    return part_of


def _tell_counts(face: FaceSet, videos: Sequence[FaceVideo], news: News) -> None:
    live = sum(not video.attack for video in videos)
    count = (live, len(videos) - live)
    if count != face.videos[0]:
        expected = face.videos[0]
        news.say(
            f"expected {sum(expected):,} videos of {face.title} ({expected[0]:,} live), found "
            f"{len(videos):,} ({live:,} live)"
        )


def _extract_each(videos: Sequence[FaceVideo], target: Path, frames: int, news: News) -> list[str]:
    """Extract frames in as many threads as CPUs; names of videos that were decoded in part."""
    failed, broken = [], []

    def outcome(video: FaceVideo) -> bool | UnreadableError:
        try:
            return _extract(video, target, frames)
        except UnreadableError as error:
            return error

    for done, (video, found) in enumerate(zip(videos, in_threads(outcome, videos), strict=True), 1):
        if isinstance(found, UnreadableError):
            failed.append(str(found))
        elif not found:
            broken.append(video.name)
        news.advance("extracting frames", done, len(videos))
    if failed:
        raise DataError(
            f"{len(failed):,} of the {len(videos):,} videos cannot be read: {listed(failed)}. Mend "
            f"or remove them and run this again; what is finished is kept."
        )
    return broken


def _folder_of(target: Path, video: FaceVideo) -> Path:
    return target / FRAMES / video.name


def _is_done(target: Path, video: FaceVideo, frames: int) -> bool:
    return len(list(_folder_of(target, video).glob("*.png"))) == frames


def _extract(video: FaceVideo, target: Path, frames: int) -> bool:
    """Write a video's frames, all or none; whether all of it could be decoded."""
    if _is_done(target, video, frames):
        return True
    images, whole = frames_of(video.path, frames)
    folder = _folder_of(target, video)
    unfinished = folder.with_name(f".{folder.name}.part")
    try:
        for place in folder.relative_to(target).parents:
            require_no_link(target / place)
        for leftover in (unfinished, folder):
            remove_ours(leftover, FRAME)
        unfinished.mkdir(parents=True)
        for number, image in sorted(images.items()):
            with creating(unfinished / f"{number:05d}.png") as file:
                image.save(file, "PNG")
        unfinished.rename(folder)
    except OSError as error:
        raise DataError(
            f"frames cannot be written to {folder} ({error}); give another folder or make room, "
            f"and run this again."
        ) from error
    return whole


def _write_lists(videos: Sequence[FaceVideo], target: Path) -> None:
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for video in videos:
        there = sorted(_folder_of(target, video).iterdir())
        found = [_entry(video, frame, target) for frame in there if FRAME.fullmatch(frame.name)]
        rows[video.part] += found
        if video.part != "valid":
            rows["fake" if video.attack else "real"] += found
            rows["all"] += found
    for name in LISTS:
        if rows[name]:
            replace(_list_of(target, name), json.dumps(rows[name], indent=1))


def _list_of(target: Path, name: str) -> Path:
    return target / f"{name}_label.json"


def _require_ours(target: Path) -> None:
    """See that lists and frames in a folder are ours.

    Raises:
        ForeignFileError: they are not.
    """
    require_no_link(target)
    require_ours([target / MARKER], lambda _: MARK.encode())
    names = [*(_list_of(target, name).name for name in LISTS), FRAMES]
    foreign = [name for name in names if (target / name).exists()]
    if foreign and not (target / MARKER).exists():
        raise ForeignFileError(
            f"{target} holds {', '.join(foreign)}, which domaingrad has not written and would "
            f"replace (what it writes has a {MARKER} beside it); name another folder."
        )


def _claim(target: Path, kind: Kind) -> None:
    make(target)
    replace(target / MARKER, json.dumps({"note": f"{MARK} prepare-faces", "set": kind}))


def _entry(video: FaceVideo, frame: Path, target: Path) -> dict[str, Any]:
    return {
        "photo_path": frame.relative_to(target).as_posix(),
        "photo_label": 0 if video.attack else 1,
        "photo_belong_to_video_ID": video.name,
        "photo_attack": video.attack,
    }
