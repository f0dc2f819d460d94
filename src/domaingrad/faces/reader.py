"""Frames of videos of live faces and of attacks, as lists in the layout that SSDG made usual.

The layout is that of the code of arXiv 2004.14043: a folder for each set, in it lists of objects of
``photo_path`` and ``photo_label``, 1 for live. The keys ``photo_belong_to_video_ID`` (there, but in
lists of chosen frames only) and ``photo_attack`` (our own) are optional.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from domaingrad.bench.domains.data import DataError, DomainData, News, Reader
from domaingrad.bench.domains.files import listed, read_json, visible
from domaingrad.bench.domains.labelled import (
    ImageOptions,
    LabelledImage,
    check_labelled,
    read_labelled,
)
from domaingrad.bench.names import look_up
from domaingrad.bench.schema import Option, settings

from .sets import FACE_SETS, LIVE, PROTOCOLS, UNNAMED, FaceSet, known_set
from .synthetic.dataset import SETTINGS
from .video_scores import frames_scored

LISTS = "ROOT/SET/{all,train,valid,test,real,fake}_label.json"
READ = (("all",), ("train", "valid", "test"), ("real", "fake"))
"""Lists that together are a set: the first of these that are there are read."""

CLASSES = ("spoof", LIVE)
"""By label in the lists; sorted, as everywhere, live is class 0."""

KEYS = ("photo_path", "photo_label")
VIDEO, ATTACK = "photo_belong_to_video_ID", "photo_attack"

FRAME = re.compile(
    r"(?P<bare>\d+(\.\d+)?)"
    r"|(?P<named>.*?)[._ -]*(frames?|image|img)[._ -]*\d+(\.\d+)?"
    r"|(?P<numbered>.+?)[._ -]\d+(\.\d+)?",
    re.IGNORECASE,
)
"""Names of frames: a number alone, one after a word for frame, or one set off from a name."""


@dataclass(frozen=True)
class FaceFolder:
    """A set's folder with its lists."""

    path: Path
    domain: str
    known: FaceSet | None
    lists: tuple[Path, ...]


@settings
class FaceOptions(ImageOptions):
    """What the reader of faces may be told."""

    protocol: Annotated[
        str | None,
        Option(f"Faces: sources and the set held out, one of {', '.join(PROTOCOLS)} (in quotes)."),
    ] = None


def read_faces(path: Path, options: FaceOptions, news: News) -> DomainData:
    """Read the frames that the lists in the folders of a root name, each folder a domain.

    Names of the known sets, as ``oulu`` or ``CASIA-FASD``, become O, C, I and M. Of a set
    ``all_label.json`` is read, else the train, valid and test lists, else real and fake. A path is
    absolute, or relative to the set's folder or to the root. A video is what the list numbers; a
    number counts within its list. Else it is the frame's folder, with what the file's name says
    beside the frame's number.

    Args:
        path: the root.
        options: of which size, skip_unreadable and protocol are heeded.
        news: hears of the decoding.

    Raises:
        UnknownNameError: a protocol that does not exist.
        DataError: no lists; lists that cannot be read or name files that are missing or twice
            there; videos without frames or of both classes; one set under another's name; fewer
            than two domains or classes; unreadable images.
    """
    folders, notes = _folders(path)
    images = [image for folder in folders for image in _images(folder, path)]
    _check_files(images, path)
    _check_videos(images, path)
    if (path / SETTINGS).exists():
        notes.append(f"{path.name} is generated; its O, C, I and M are none of the licensed sets")
    for folder in [] if (path / SETTINGS).exists() else folders:
        notes += _counted(folder, [image for image in images if image.domain == folder.domain])
    check_labelled(images, str(path), options.least)
    # Lists number the videos of their own set.
    data = read_labelled(path.resolve().name, images, options, news, notes, everywhere=False)
    data = replace(
        data,
        notes=(*data.notes, *_lost(images, data)),
        recipe=replace(data.recipe, balance="class"),
        recorder=frames_scored,
    )
    return data if options.protocol is None else of_protocol(data, options.protocol)[0]


def of_protocol(data: DomainData, name: str) -> tuple[DomainData, str]:
    """The domains of a protocol alone, and which of them is held out.

    Args:
        data: as :func:`read_faces` returns them.
        name: in :data:`~.sets.PROTOCOLS`.

    Raises:
        UnknownNameError: another name.
        DataError: a domain of the protocol is not among the data.
    """
    sources, held_out = look_up("protocol", name, PROTOCOLS)
    wanted = sorted((*sources, held_out))
    if missing := [letter for letter in wanted if letter not in data.domains]:
        raise DataError(
            f"the protocol {name} needs the domains {listed(wanted)}; {data.name} has "
            f"{listed(sorted(data.domains))}. "
            + " ".join(f"{FACE_SETS[letter].obtained()}." for letter in missing)
        )
    if wanted == sorted(data.domains):
        return data, held_out
    identity = json.dumps([data.fingerprint, wanted])
    return (
        replace(
            data,
            domains={letter: data.domains[letter] for letter in wanted},
            groups={letter: data.groups[letter] for letter in wanted if letter in data.groups},
            fingerprint=hashlib.sha256(identity.encode()).hexdigest(),
        ),
        held_out,
    )


def _folders(root: Path) -> tuple[list[FaceFolder], list[str]]:
    """Folders with lists, sorted, and notes on others."""
    if not root.is_dir():
        there = "a file" if root.exists() else "nothing"
        raise DataError(f"expected lists {LISTS} at {root}, found {there}. {_requests()}")
    if lists := _lists(root):
        raise DataError(
            f"expected lists {LISTS}, found {listed([each.name for each in lists])} in {root} "
            f"itself; give the folder above it, {root.resolve().parent}."
        )
    _, names, _ = next(visible(root))
    folders = [_folder(root / name) for name in names]
    found = [folder for folder in folders if folder.lists]
    idle = [folder for folder in folders if not folder.lists]
    if not found:
        raise DataError(f"expected lists {LISTS}, found none in {root}. {_requests()}")
    for domain, times in Counter(folder.domain for folder in found).items():
        if times > 1:
            same = [folder.path.name for folder in found if folder.domain == domain]
            raise DataError(
                f"{root}: the folders {listed(same)} are all {domain}; keep one of them, or "
                f"rename the others."
            )
    present = {folder.domain for folder in found}
    for folder in idle:
        if folder.known and folder.domain not in present:
            raise DataError(
                f"expected a list such as all_label.json in {folder.path}, found none. Have "
                f"prepare-faces {folder.known.kind} run to its end, as it writes the lists last, "
                f"or remove the folder."
            )
    names = [folder.path.name for folder in idle]
    return found, [f"folders without lists are no domains: {listed(names)}"] if idle else []


def _folder(path: Path) -> FaceFolder:
    known = known_set(path.name)
    domain = known.letter if known else unicodedata.normalize("NFC", path.name)
    return FaceFolder(path, domain, known, _lists(path))


def _lists(folder: Path) -> tuple[Path, ...]:
    for names in READ:
        lists = [folder / f"{name}_label.json" for name in names]
        if there := [each for each in lists if each.is_file()]:
            return tuple(there)
    return ()


def _images(folder: FaceFolder, root: Path) -> Iterator[LabelledImage]:
    for place in folder.lists:
        scope = place.name.removesuffix("_label.json") + "/" if len(folder.lists) > 1 else ""
        for number, row in enumerate(_rows(place), start=1):
            where = f"{place} entry {number}"
            _check_row(where, row)
            path = _found(folder.path, root, row["photo_path"])
            video = row.get(VIDEO)
            # A number means the same as text, and is one of its list.
            if isinstance(video, int) or (video or "").strip().isdecimal():
                video = f"{scope}{int(video or 0)}"
            attack = unicodedata.normalize("NFC", (row.get(ATTACK) or "").strip())
            yield LabelledImage(
                path,
                folder.domain,
                CLASSES[row["photo_label"]],
                video or _video_of(path, root),
                attack or ("" if row["photo_label"] else UNNAMED),
            )


def _rows(place: Path) -> Sequence[Mapping[str, Any]]:
    content = read_json(place)
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise DataError(f"{place}: expected a list of objects of {listed(KEYS)}.")
    if not content:
        raise DataError(f"{place} lists no frames; fill it or remove it.")
    return content


def _check_row(where: str, row: Mapping[str, Any]) -> None:
    for key in KEYS:
        if key not in row:
            others = [name for name in row if name not in KEYS]
            near = get_close_matches(key, others, n=1, cutoff=0.5)
            hint = f" The nearest is {near[0]!r}." if near else ""
            raise DataError(f"{where} has no {key!r}, only {listed([*row])}.{hint}")
    path, label, video, attack = (row.get(key) for key in (*KEYS, VIDEO, ATTACK))
    if not isinstance(path, str) or not path.strip():
        raise DataError(f"{where}: expected a path as photo_path, found {path!r}.")
    if type(label) is not int or label not in (0, 1):
        raise DataError(
            f"{where}: expected 1 for live or 0 for spoof as photo_label, found {label!r}."
        )
    if video is not None and (type(video) not in (int, str) or not str(video).strip()):
        raise DataError(f"{where}: expected a number or a name as {VIDEO}, found {video!r}.")
    if attack is not None and not isinstance(attack, str):
        raise DataError(f"{where}: expected a name as {ATTACK}, found {attack!r}.")
    if label == 1 and attack and attack.strip():
        raise DataError(
            f"{where}: expected no {ATTACK} of a live face, found {attack!r}; correct one of the "
            f"two."
        )


def _found(folder: Path, root: Path, given: str) -> Path:
    """The path as meant: in the set's folder, or else in the root."""
    within = folder / given  # which is the given path alone where that is absolute
    return root / given if not within.is_file() and (root / given).is_file() else within


def _video_of(path: Path, root: Path) -> str:
    """Folder, and name without the frame's number, the same wherever the root lies."""
    parent = path.parent.relative_to(root) if path.is_relative_to(root) else path.parent
    match = FRAME.fullmatch(path.stem)
    rest = path.stem if match is None else match["named"] or match["numbered"] or ""
    return (parent / rest).as_posix()


def _check_files(images: Sequence[LabelledImage], root: Path) -> None:
    missing = [image.path for image in images if not image.path.is_file()]
    if missing:
        raise DataError(
            f"{len(missing):,} of the {len(images):,} frames that the lists in {root} name do not "
            f"exist: {listed(missing)}. Paths are absolute, or relative to a set's folder or to "
            f"{root}."
        )
    times = Counter(os.path.normpath(image.path) for image in images)
    if repeated := [path for path, count in times.items() if count > 1]:
        raise DataError(
            f"the lists in {root} name frames more than once ({len(repeated):,}): "
            f"{listed(repeated)}. Keep one entry of each."
        )


def _check_videos(images: Sequence[LabelledImage], root: Path) -> None:
    shown: dict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
    for image in images:
        shown[image.domain, image.group].add((image.label, image.kind))
    if mixed := [f"{video} of {domain}" for (domain, video), is_ in shown.items() if len(is_) > 1]:
        raise DataError(
            f"expected frames of one class and one kind of attack in each video, found several in "
            f"{len(mixed):,}: {listed(mixed)}. Correct the labels, or number the videos of {root} "
            f"by {VIDEO}."
        )
    # Only where a folder is a video: what lies beside others may be anything.
    places = {i.path.parent.parent for i in images if i.path.parent.as_posix().endswith(i.group)}
    beside = [
        place / name
        for place in sorted(places)
        if place != root and place.is_relative_to(root)
        for name in next(visible(place))[1]
    ]
    if empty := [folder for folder in beside if not any(files for _, _, files in visible(folder))]:
        raise DataError(
            f"expected frames of each video, found none in {len(empty):,}: {listed(empty)}. "
            f"Extract them, or remove the folders."
        )


def _counted(folder: FaceFolder, images: Sequence[LabelledImage]) -> list[str]:
    """Compare numbers of videos with the published ones."""
    videos = {image.group: image for image in images}
    live = sum(image.label == LIVE for image in videos.values())
    count = (live, len(videos) - live)
    notes = []
    if folder.known and count not in folder.known.videos:
        for other in FACE_SETS.values():
            if count in other.videos:
                raise DataError(
                    f"{folder.path} is read as {folder.known.title}, and has the numbers of videos "
                    f"of {other.title}, {_told(count)}. Rename the folder to {other.folder}; or, "
                    f"if it is neither, to a name of its own."
                )
        expected = folder.known.videos[0]
        notes.append(
            f"{folder.domain}: expected {sum(expected):,} videos of {folder.known.title} "
            f"({_told(expected)}), found {sum(count):,} ({_told(count)})"
        )
    if [each.name for each in folder.lists] != ["all_label.json"]:
        notes.append(f"{folder.domain}: read {listed([each.name for each in folder.lists])}")
    if any(image.kind == UNNAMED for image in videos.values()):
        notes.append(
            f"{folder.domain}: attacks without a kind count as one kind ({UNNAMED!r}), as in APCER"
        )
    return notes


def _told(count: tuple[int, int]) -> str:
    return f"{count[0]:,} live and {count[1]:,} attacks"


def _lost(images: Sequence[LabelledImage], data: DomainData) -> Iterator[str]:
    """Name the videos of which skipping unreadable files left nothing."""
    listed_videos: dict[str, set[str]] = defaultdict(set)
    for image in images:
        listed_videos[image.domain].add(image.group)
    for domain, videos in sorted(listed_videos.items()):
        if gone := sorted(videos - {*data.groups[domain].names}):
            yield f"{domain}: videos without a readable frame ({len(gone):,}): {listed(gone)}"


def _requests() -> str:
    known = "; ".join(face.obtained() for face in FACE_SETS.values())
    return f"Lists of your own will do. Of the usual four sets: {known}."


def held_out_of(options: FaceOptions) -> str | None:
    """The set of faces that a protocol holds out.

    Raises:
        UnknownNameError: a protocol that does not exist.
    """
    if options.protocol is None:
        return None
    return look_up("protocol", options.protocol, PROTOCOLS)[1]


FACES = Reader(
    kind="faces",
    summary=f"Videos of live faces and attacks, frames listed in {LISTS}.",
    read=read_faces,
    options=FaceOptions,
    hold_out=held_out_of,
)
