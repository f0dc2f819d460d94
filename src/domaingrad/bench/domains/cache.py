"""Decoded images on disk, so that each is decoded once."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from domaingrad.bench.checked import read_document, write_document
from domaingrad.bench.disk import (
    FullDiskError,
    is_writable,
    locked,
    read,
    remove_ours,
    replace,
    writing,
)

from .data import DataError, News
from .decoding import AT_ONCE, decode_each
from .fetched import CachedImages, ImageFiles, StandIns, stamp_of
from .files import listed

FORMAT = 2
"""Part of every key; counted up when decoding or the files of an entry change."""


DAMAGED = (OSError, ValueError, KeyError, TypeError)
"""What reading an entry raises that is not what was written, or is not there."""
IMAGES, CONTENTS, STAMP = "images", "contents.json", "checked"
"""Files of an entry: pixels, which files they are of, and how they were when last checked."""
_ENTRY = r"[0-9a-f]{32}"
KINDS = {
    "images": re.compile(rf"{_ENTRY}(\.lock|(\.partial)?/({IMAGES}|{CONTENTS}|{STAMP}))"),
    "embeddings": re.compile(rf"{_ENTRY}(\.lock|/\d+-\d+)"),
}
"""Folders of the cache, and the paths of all that is in each."""


@dataclass(frozen=True)
class Decoded:
    """The pixels of image files."""

    images: CachedImages | ImageFiles | StandIns
    """uint8 [n, 3, size, size]."""
    kept: tuple[int, ...]
    """Which of the files these are; all of them unless unreadable ones were left out."""
    notes: tuple[str, ...]
    """Which files were left out."""
    digest: str
    """Hash of the pixels, wherever the files lie; empty of stand-ins."""


def cache_directory() -> Path:
    """``$DOMAINGRAD_CACHE``, else ``$XDG_CACHE_HOME/domaingrad``, else ``~/.cache/domaingrad``."""
    if own := os.environ.get("DOMAINGRAD_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "domaingrad"


def cached_bytes() -> int:
    """What the cache takes on disk."""
    found = (path for kind in KINDS for path in cache_directory().glob(f"{kind}/**/*"))
    return sum(path.stat().st_size for path in found if path.is_file())


def clear_cache() -> int:
    """Remove all decoded images and embeddings; how many bytes they took. Runs make them anew.

    Raises:
        DataError: the cache cannot be removed.
        ForeignFileError: something else is in it.
    """
    taken = cached_bytes()
    try:
        for kind, ours in KINDS.items():
            remove_ours(cache_directory() / kind, ours)
    except OSError as error:
        raise DataError(f"the cache cannot be removed ({error}).") from error
    return taken


def decoded(files: Sequence[Path], size: int, news: News, skip_unreadable: bool = False) -> Decoded:
    """The pixels of the files, from the cache or else decoded into it.

    An entry is found again by the files' paths, sizes in bytes and times of change, in order, and
    by the arguments. Their contents are not read for it, so a file rewritten with its size and
    time kept goes unnoticed. Two processes may ask for the same entry: one decodes, the other
    waits. An entry counts once it is whole; what a killed process left behind is removed. Its
    pixels' digest is checked when it is opened, unless the file is as it was at the last check;
    a damaged one is decoded anew.

    Args:
        files: image files.
        size: height and width.
        news: hears of the size on disk before, and of progress.
        skip_unreadable: leave out files that cannot be decoded.

    Raises:
        DataError: no files; unreadable files, all of them found before it stops; too little room
            on disk, before or while writing.
    """
    if not files:
        raise DataError("no image files to decode; give at least one.")
    directory = cache_directory() / "images"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"the cache directory {directory} cannot be made ({error.strerror}); set "
            f"DOMAINGRAD_CACHE to one that can."
        ) from error
    entry = directory / _key(files, size, skip_unreadable)
    if entry.exists():
        try:
            return _read(entry, files, size)
        except DAMAGED as error:
            news.say(f"the cache entry {entry} is damaged ({error}); decoding its images anew")
    with alone(entry, news, "decoding these images"):
        try:  # another process may have written it meanwhile
            return _read(entry, files, size)
        except DAMAGED:
            shutil.rmtree(entry, ignore_errors=True)
            _write(entry, files, size, news, skip_unreadable)
    return _read(entry, files, size)


def counted(files: Sequence[Path], size: int, news: News, skip_unreadable: bool = False) -> Decoded:
    """What :func:`decoded` finds in the cache; else stand-ins, and what it would take is told.

    Raises:
        DataError: too little room on disk.
    """
    directory = cache_directory() / "images"
    try:
        return _read(directory / _key(files, size, skip_unreadable), files, size)
    except DAMAGED:
        _check_room(directory, len(files), size, news, "still to be decoded:")
    stand_ins = StandIns((len(files), 3, size, size))
    return Decoded(stand_ins, kept=tuple(range(len(files))), notes=(), digest="")


def _key(files: Sequence[Path], size: int, skip_unreadable: bool) -> str:
    digest = hashlib.sha256(json.dumps([FORMAT, size, skip_unreadable]).encode())
    resolved = cache(os.path.realpath)
    for path in files:
        name = os.path.join(resolved(path.parent), path.name)
        try:
            status = path.stat()
        except OSError:  # decoding reports it, with all others
            state = "missing"
        else:
            state = f"{status.st_size} {status.st_mtime_ns}"
        digest.update(f"{name}\0{state}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


@contextmanager
def alone(entry: Path, news: News, work: str) -> Iterator[None]:
    """Hold the entry's lock, which the system lets go of if the process is killed."""
    place = entry.with_suffix(".lock")
    with locked(place) as held:
        if held:
            yield
            return
    news.say(f"another process is {work}; waiting for it")
    with locked(place, patience=-1):
        yield


def _write(entry: Path, files: Sequence[Path], size: int, news: News, skip: bool) -> None:
    partial = entry.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)  # left behind by a process that was killed
    _check_room(entry.parent, len(files), size, news, "decoding")
    try:
        partial.mkdir()
        _fill(partial, files, size, news, skip)
        partial.rename(entry)
    except (OSError, FullDiskError) as error:
        raise DataError(
            f"the decoded images cannot be written to {entry.parent} ({error}); make "
            f"room there, or set DOMAINGRAD_CACHE to a directory on another disk."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_room(directory: Path, images: int, size: int, news: News, begins: str) -> None:
    there = next(place for place in (directory, *directory.parents) if place.exists())
    needed, free = images * 3 * size * size, shutil.disk_usage(there).free
    news.say(
        f"{begins} {images:,} images to {size}×{size}, once: {_in_units(needed)} to be written to "
        f"{directory}, where {_in_units(free)} are free"
    )
    if needed > free:
        raise DataError(
            f"decoding {images:,} images to {size}×{size} takes {_in_units(needed)} in "
            f"{directory}, where {_in_units(free)} are free; make room there, set "
            f"DOMAINGRAD_CACHE to a directory on another disk, or choose a smaller size."
        )


def _fill(partial: Path, files: Sequence[Path], size: int, news: News, skip: bool) -> None:
    kept: list[int] = []
    unreadable: list[str] = []
    digest = hashlib.sha256()
    # Written, not mapped: on a full disk a write raises, and a map kills the process.
    with writing(partial / IMAGES) as (_, file):
        for index, outcome in enumerate(decode_each(files, size)):
            if isinstance(outcome, DataError):
                unreadable.append(str(outcome))
            else:
                pixels = outcome.numpy().tobytes()
                digest.update(pixels)
                file.write(pixels)
                kept.append(index)
            if (index + 1) % AT_ONCE == 0 or index + 1 == len(files):
                news.advance("decoding images", index + 1, len(files))
    if unreadable and not (skip and kept):
        remedy = (
            "none is left" if skip else "mend or remove them, or leave them out by skip_unreadable"
        )
        raise DataError(
            f"{len(unreadable):,} of {len(files):,} images cannot be decoded; {remedy}: "
            f"{listed(unreadable)}"
        )
    write_document(partial / CONTENTS, {"kept": kept, "digest": digest.hexdigest()})
    _stamp(partial, digest.hexdigest())


def _read(entry: Path, files: Sequence[Path], size: int) -> Decoded:
    """What an entry holds.

    Raises:
        OSError, ValueError, KeyError, TypeError: it is not there, or not what was written.
    """
    contents = read_document(entry / CONTENTS)
    kept, digest = tuple(contents["kept"]), contents["digest"]
    place = entry / IMAGES
    stamp = stamp_of(place)
    if stamp[0] != len(kept) * 3 * size * size:
        raise ValueError(f"{IMAGES} has {stamp[0]:,} bytes")
    if not (entry / STAMP).exists() or read(entry / STAMP) != _stamped(stamp, digest):
        with place.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise ValueError(f"the digest of {IMAGES} differs")
        if is_writable(entry):
            _stamp(entry, digest)
    names = [str(files[index]) for index in sorted(set(range(len(files))) - {*kept})]
    note = f"left out {len(names):,} of {len(files):,} images, unreadable: {listed(names)}"
    return Decoded(
        images=CachedImages(place, 0, len(kept), size, stamp),
        kept=kept,
        notes=(note,) if names else (),
        digest=digest,
    )


def _stamp(entry: Path, digest: str) -> None:
    """Write down that the images are whole, as long as their file is not changed."""
    replace(entry / STAMP, _stamped(stamp_of(entry / IMAGES), digest))


def _stamped(stamp: tuple[int, int], digest: str) -> bytes:
    return f"{stamp[0]} {stamp[1]} {digest}\n".encode()


def _in_units(size: float) -> str:
    """A number of bytes, for people.

    >>> _in_units(1_500_000_000), _in_units(12_288)
    ('1.5 GB', '12.3 kB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"
