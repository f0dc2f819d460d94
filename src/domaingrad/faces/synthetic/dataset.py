"""The data set on disk, in the layout that face anti-spoofing code reads."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from domaingrad.bench.disk import PART, creating, make, remove_ours, replace
from domaingrad.bench.domains.data import DataError
from domaingrad.bench.domains.files import listed, read_json

from .cameras import CAMERAS
from .videos import Attack, video

VERSION = 1
"""Part of the settings; counted up when the same settings give other pictures."""
SETTINGS = "fas-synthetic.json"
"""Written last: a folder that holds it is whole."""
UNFINISHED = "fas-synthetic.unfinished"
"""Written first, and gone in the end."""
OURS = re.compile(r"frames/\d{3,}-(live|print|replay)-\d+/\d+\.jpg|[a-z]+_label\.json")
"""Files of a domain."""
SMALLEST, LARGEST = 32, 1024
TAKES: tuple[tuple[Attack, int], ...] = (("", 2), ("print", 1), ("replay", 1))
"""How many videos of each kind there are of each person."""

Split = Literal["train", "valid", "test"]


@dataclass(frozen=True)
class _Settings:
    """All that the files follow from."""

    seed: int
    size: int
    subjects: int
    frames: int
    version: int = VERSION


@dataclass(frozen=True)
class _Video:
    number: int
    """In its domain, from 0."""
    subject: int
    attack: Attack
    take: int

    @property
    def folder(self) -> str:
        kind = self.attack or "live"
        return f"frames/{self.subject:03d}-{kind}-{self.take}"


def write_fas_synthetic(
    root: Path,
    seed: int = 0,
    size: int = 64,
    subjects: int = 20,
    frames: int = 4,
    advance: Callable[[str, int, int], None] | None = None,
) -> None:
    """Write made-up face videos and attacks, as four cameras see them, each of other people.

    Under ``root`` each of the domains O, C, I and M holds ``frames/<video>/<n>.jpg`` and the lists
    ``train_label.json``, also of valid, test, all, real and fake. Lists are of objects with a
    ``photo_path`` (from the domain's folder), ``photo_label`` (1 for live),
    ``photo_belong_to_video_ID`` and ``photo_attack`` (empty, print or replay). There are two live
    videos, a print and a replay of each person, who is in one of train (about 60 %), valid and
    test alone.

    The same settings give the same bytes with the same versions of NumPy, SciPy and Pillow. Where
    they are already written, nothing is done; what a killed process left is written anew.

    Args:
        root: a new or empty folder, or one written before.
        seed: of everything; at least 0.
        size: height and width of the frames, from 32 to 1024 pixels.
        subjects: people in each domain; at least 3.
        frames: of each video; at least 1.
        advance: hears what is being written, how many are, and of how many.

    Raises:
        DataError: settings out of their range, or a folder that holds something else.
    """
    settings = _Settings(seed, size, subjects, frames)
    _check(settings)
    if _written(root, settings):
        return
    make(root)
    replace(root / UNFINISHED, "")
    for domain in CAMERAS:
        remove_ours(root / domain, OURS)
    videos = list(_videos(subjects))
    for place, domain in enumerate(CAMERAS):
        for done, taken in enumerate(videos):
            if advance is not None:
                advance("videos", place * len(videos) + done, len(CAMERAS) * len(videos))
            _write_video(root / domain, domain, taken, settings)
        _write_lists(root / domain, videos, settings)
    if advance is not None:
        advance("videos", len(CAMERAS) * len(videos), len(CAMERAS) * len(videos))
    _write_settings(root, settings)


def split_of(subject: int, subjects: int) -> Split:
    """Which split a person is in: the last fifths, at least one each, are valid and test.

    >>> [split_of(subject, 5) for subject in range(5)]
    ['train', 'train', 'train', 'valid', 'test']
    """
    fifth = max(1, round(subjects / 5))
    if subject >= subjects - fifth:
        return "test"
    return "valid" if subject >= subjects - 2 * fifth else "train"


def _check(settings: _Settings) -> None:
    for name, least in (("seed", 0), ("subjects", 3), ("frames", 1)):
        found = getattr(settings, name)
        if found < least:
            raise DataError(f"expected {name} of at least {least}, found {found}.")
    if not SMALLEST <= settings.size <= LARGEST:
        raise DataError(
            f"expected a size from {SMALLEST} to {LARGEST} pixels, found {settings.size}."
        )


def _written(root: Path, settings: _Settings) -> bool:
    """Whether all is there; raise if something else is."""
    if root.exists() and not root.is_dir():
        raise DataError(f"expected a folder to write to at {root}, found a file; name another.")
    found = sorted(path.name for path in root.iterdir()) if root.exists() else []
    if SETTINGS in found:
        _check_same(root, settings)
        return True
    if [name for name in found if not PART.fullmatch(name)] and UNFINISHED not in found:
        raise DataError(
            f"expected an empty folder at {root}, or one that fas-synthetic was written to, found "
            f"{listed(found, most=3)}; name another folder."
        )
    return False


def _check_same(root: Path, settings: _Settings) -> None:
    try:
        before = read_json(root / SETTINGS)
    except DataError as error:
        raise DataError(f"{error} Remove {root} and write it anew.") from error
    if before != asdict(settings):
        raise DataError(
            f"expected {root} to be written with {asdict(settings)}, found {before}; name another "
            f"folder, or remove this one first."
        )


def _videos(subjects: int) -> Iterator[_Video]:
    number = 0
    for subject in range(subjects):
        for attack, takes in TAKES:
            for take in range(takes):
                yield _Video(number, subject, attack, take)
                number += 1


def _write_video(folder: Path, domain: str, taken: _Video, settings: _Settings) -> None:
    frames = video(
        settings.seed, domain, taken.subject, taken.attack, taken.take, settings.size,
        settings.frames,
    )  # fmt: skip
    (folder / taken.folder).mkdir(parents=True)
    for number, frame in enumerate(frames):
        with creating(folder / taken.folder / f"{number}.jpg") as file:
            file.write(frame)


def _write_lists(folder: Path, videos: list[_Video], settings: _Settings) -> None:
    rows: dict[str, list[dict[str, str | int]]] = {
        name: [] for name in ("train", "valid", "test", "all", "real", "fake")
    }
    for taken in videos:
        split = split_of(taken.subject, settings.subjects)
        for number in range(settings.frames):
            row: dict[str, str | int] = {
                "photo_path": f"{taken.folder}/{number}.jpg",
                "photo_label": int(not taken.attack),
                "photo_belong_to_video_ID": taken.number,
                "photo_attack": taken.attack,
            }
            for name in (split, "all", "fake" if taken.attack else "real"):
                rows[name].append(row)
    for name, listing in rows.items():
        text = json.dumps(listing, indent=1) + "\n"
        replace(folder / f"{name}_label.json", text)


def _write_settings(root: Path, settings: _Settings) -> None:
    replace(root / SETTINGS, json.dumps(asdict(settings), indent=1) + "\n")
    (root / UNFINISHED).unlink()
