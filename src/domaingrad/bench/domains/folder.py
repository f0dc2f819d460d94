"""Data sets that are folders of domains, each of folders of classes, each of image files."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from domaingrad.bench.schema import settings

from .data import GROUP, DataError, DomainData, News, Reader
from .decoding import is_image
from .files import listed, visible
from .labelled import ImageOptions, LabelledImage, check_labelled, read_labelled

LAYOUT = "root/domain/class/image"


@settings
class FolderOptions(ImageOptions):
    """What a reader of folders may be told."""

    group: Annotated[str | None, GROUP] = None


@dataclass(frozen=True)
class FolderImages:
    """What a folder of the layout holds."""

    images: tuple[LabelledImage, ...]
    """Sorted by domain, class and name of the file."""
    notes: tuple[str, ...]
    """What was ignored, and links that were followed."""


@dataclass(frozen=True)
class _Contents:
    """Everything visible below a folder, as paths from it."""

    root: Path
    folders: tuple[Path, ...]
    images: tuple[Path, ...]
    others: tuple[Path, ...]
    links: int


def read_folder(path: Path, options: FolderOptions, news: News) -> DomainData:
    """Read the images under ``path/domain/class/``.

    Names of domains and classes are the folders', in Unicode's composed form, and sorted. Hidden
    files are ignored; so are other files, images outside class folders, and folders beside the
    domains that hold no image at all, all three with a note.

    Args:
        path: the folder that holds the domains.
        options: of which size, skip_unreadable and group are heeded.
        news: hears of the decoding.

    Raises:
        DataError: no such folder, another layout, fewer than two domains or classes, domains or
            classes without images, classes that differ only by case, unreadable images.
    """
    found = grouped(find_images(path, options.least), path, options.group)
    return read_labelled(path.resolve().name, found.images, options, news, found.notes)


def find_images(path: Path, least: int = 2) -> FolderImages:
    """The images under ``path/domain/class/``, found but not decoded.

    Raises:
        DataError: as :func:`read_folder`, but for unreadable images.
    """
    if not path.is_dir():
        found = "a file" if path.exists() else "nothing"
        raise DataError(f"expected a folder of the layout {LAYOUT} at {path}, found {found}.")
    contents = _contents(path)
    within = [image for image in contents.images if len(image.parts) == 3]
    _check_layout(contents, within)
    images = [
        LabelledImage(path / image, _composed(image.parts[0]), _composed(image.parts[1]))
        for image in within
    ]
    images.sort(key=lambda image: (image.domain, image.label, image.path.name))
    idle = _check_folders(contents, images)
    check_labelled(images, str(path), least)
    return FolderImages(tuple(images), tuple(_notes(contents, idle)))


def grouped(found: FolderImages, root: Path, pattern: str | None) -> FolderImages:
    """With groups by a pattern in ``domain/class/file``: its first part in brackets, or all of it.

    Raises:
        DataError: no regular expression, or files without it.
    """
    if pattern is None:
        return found
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise DataError(
            f"group has to be a regular expression of {LAYOUT}; found {pattern!r}: {error}."
        ) from error
    matches = [expression.search(i.path.relative_to(root).as_posix()) for i in found.images]
    if without := [
        image.path for image, match in zip(found.images, matches, strict=True) if match is None
    ]:
        raise DataError(
            f"expected the pattern {pattern!r} in the place of every image below {root}; found "
            f"none in {len(without):,}: {listed(without, most=3)}."
        )
    images = [
        replace(image, group=match[(match.lastindex and 1) or 0])
        for image, match in zip(found.images, matches, strict=True)
        if match is not None
    ]
    return replace(found, images=tuple(images))


def _contents(root: Path) -> _Contents:
    folders: list[Path] = []
    images: list[Path] = []
    others: list[Path] = []
    links = 0
    for folder, subfolders, files in visible(root):
        place = folder.relative_to(root)
        folders += [place / name for name in subfolders]
        for name in files:
            (images if is_image(name) else others).append(place / name)
        links += sum(os.path.islink(folder / name) for name in (*subfolders, *files))
    return _Contents(root, tuple(folders), tuple(images), tuple(others), links)


def _check_layout(contents: _Contents, within: Sequence[Path]) -> None:
    """Raise if images lie at another depth than the layout's."""
    deeper = [image for image in contents.images if len(image.parts) > 3]
    if deeper:
        tops = {image.parts[0] for image in deeper}
        hint = (
            f"if the folders in {contents.root / tops.pop()} are the domains, give that path"
            if len(tops) == 1 and not within
            else "move them into the folder of their class, or list all images in a manifest"
        )
        raise DataError(
            f"expected {LAYOUT}, found images deeper down ({len(deeper):,}), such as "
            f"{deeper[0]}; "
            f"{hint}."
        )
    domains = {image.parts[0] for image in within}
    flat = Counter(image.parts[0] for image in contents.images if len(image.parts) == 2)
    if without := sorted(set(flat) - domains):
        found = "root/class/image, without a level of domains" if not domains else "images"
        raise DataError(
            f"expected {LAYOUT}, found {found}: {listed(without)} in {contents.root} "
            f"{'holds' if len(without) == 1 else 'hold'} images and no class folders; sort the "
            f"images into class folders, one set of them per domain."
        )
    if not within:
        found = f"images in no folder ({len(contents.images):,})" if contents.images else "no image"
        raise DataError(f"expected images in {LAYOUT} at {contents.root}, found {found}.")


def _check_folders(contents: _Contents, images: Sequence[LabelledImage]) -> list[str]:
    """Raise for domains and classes without images; return folders that are neither.

    A folder without images is taken for a domain if it is empty or has folders named as classes
    are; with other contents it is something else, like lists of splits.
    """
    domains = {image.domain for image in images}
    classes = {image.label for image in images}
    inside: dict[str, set[str]] = {
        _composed(folder.name): set() for folder in contents.folders if len(folder.parts) == 1
    }
    for folder in contents.folders:
        if len(folder.parts) == 2:
            inside[_composed(folder.parts[0])].add(_composed(folder.name))
    filled = {_composed(file.parts[0]) for file in contents.others if len(file.parts) > 1}

    idle = sorted(set(inside) - domains)
    empty = [name for name in idle if inside[name] & classes or name not in filled]
    if empty:
        raise DataError(
            f"expected images in every domain of {contents.root}, found none in {listed(empty)}; "
            f"add them, or remove the folder."
        )
    hollow = sorted({name for domain in domains for name in inside[domain]} - classes)
    if hollow:
        raise DataError(
            f"expected images of every class in {contents.root}, found none in any domain of "
            f"{listed(hollow)}; add them, or remove the folders."
        )
    return idle


def _notes(contents: _Contents, idle: Sequence[str]) -> Iterator[str]:
    if idle:
        yield f"ignored folders without images: {listed(idle)}"
    for what, files in (
        (
            "files that are no images",
            [file for file in contents.others if _composed(file.parts[0]) not in idle],
        ),
        (
            "images outside class folders",
            [image for image in contents.images if len(image.parts) < 3],
        ),
    ):
        if files:
            yield f"ignored {what} ({len(files):,}): {listed(sorted(files), most=3)}"
    if contents.links:
        yield f"followed symbolic links ({contents.links:,})"


def _composed(name: str) -> str:
    """The name in Unicode's NFC, as macOS stores names in another form."""
    return unicodedata.normalize("NFC", name)


FOLDER = Reader(
    kind="folder",
    summary=f"Image files in {LAYOUT}.",
    read=read_folder,
    options=FolderOptions,
)
