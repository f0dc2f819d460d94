"""Image files with a class and a domain each, read as a data set."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch

from domaingrad.bench.schema import Option, Whole, settings

from .cache import Decoded, counted, decoded
from .data import DataError, DomainData, Groups, News, ReaderOptions
from .fetched import Fetch, FetchedSamples, ImageFiles, StandIns
from .files import alike, listed, natural
from .photographs import Photographs
from .recipes import for_photographs

DEFAULT_SIZE = 224


@settings
class ImageOptions(ReaderOptions):
    """What every reader of image files may be told."""

    size: Annotated[
        Whole | None, Option(f"Images: height and width.  [default: {DEFAULT_SIZE}]")
    ] = None
    stored_size: Annotated[
        Whole | None,
        Option("Images: height and width that are kept and cropped from.  [default: size]"),
    ] = None
    skip_unreadable: Annotated[
        bool,
        Option("Images: leave out those that are broken, and say which.", "--skip-unreadable"),
    ] = False

    fetch: Annotated[
        Fetch,
        Option("Images: decoded once and kept on disk, or each time (as-needed)."),
    ] = "once"


@dataclass(frozen=True)
class LabelledImage:
    """An image file, and what is known of it."""

    path: Path
    domain: str
    label: str
    group: str = ""
    """What it belongs to, if to anything: a video, a patient."""
    kind: str = ""
    """What is known of the group beside its class."""


def check_labelled(images: Sequence[LabelledImage], where: str, least: int = 2) -> None:
    """See that there are two (or ``least``) domains and classes, told apart by more than case.

    Raises:
        DataError: there are not; ``where`` begins the message.
    """
    for kind, name_of, place_of in (
        ("domain", _domain, _label),
        ("class", _label, _domain),
    ):
        names = sorted({name_of(image) for image in images})
        if len(names) < least:
            raise DataError(
                f"{where}: expected images of two {_plural(kind)} or more, found {len(names)} "
                f"({listed(names) or 'none'})."
            )
        for same in alike(names):
            found = " and ".join(
                f"{name!r} (in {listed(_distinct(place_of, images, name_of, name), most=3)})"
                for name in same
            )
            raise DataError(
                f"{where}: {_plural(kind)} that differ only by case or spaces, {found}; "
                f"rename one of them."
            )


def read_labelled(
    name: str,
    images: Sequence[LabelledImage],
    options: ImageOptions,
    news: News,
    notes: Sequence[str] = (),
    everywhere: bool = True,
) -> DomainData:
    """Decode the images and deal them out to their domains, names sorted.

    Args:
        name: of the data set.
        images: checked by :func:`check_labelled`; their order is kept within a domain.
        options: of which the size and whether to skip unreadable files matter.
        news: hears of the decoding.
        notes: what was noticed before.
        everywhere: whether a group's name means the same in all domains.

    Raises:
        DataError: as :func:`~.cache.decoded`; or leaving out unreadable files left out a whole
            domain or class.
    """
    preparation = Photographs(
        DEFAULT_SIZE if options.size is None else options.size, options.stored_size
    )
    images = sorted(images, key=_domain)
    files = [image.path for image in images]
    if options.fetch == "once":
        of = counted if options.counted else decoded
        pixels = of(files, preparation.kept, news, options.skip_unreadable)
    else:
        pixels = _undecoded(name, files, preparation.kept, options)
    kept = [images[index] for index in pixels.kept]
    for kind, name_of in (("domain", _domain), ("class", _label)):
        if lost := sorted({*map(name_of, images)} - {*map(name_of, kept)}):
            raise DataError(
                f"{name}: not one image of {kind} {listed(lost)} can be decoded; mend or remove "
                f"the files."
            )

    classes = tuple(sorted({*map(_label, kept)}, key=natural))
    number = {label: index for index, label in enumerate(classes)}
    rows: dict[str, list[int]] = defaultdict(list)
    for index, image in enumerate(kept):
        rows[image.domain].append(index)
    labels = torch.tensor([number[image.label] for image in kept])
    identity = [
        pixels.digest,
        classes,
        [(image.domain, number[image.label], *_of_group(image)) for image in kept],
    ]
    return DomainData(
        name=name,
        domains={
            # Those of a domain lie side by side.
            domain: FetchedSamples(pixels.images.part(own), labels[own])
            for domain, places in sorted(rows.items())
            for own in [slice(places[0], places[-1] + 1)]
        },
        preparation=preparation,
        recipe=for_photographs(preparation.shape),
        task="classification",
        classes=classes,
        notes=(*notes, *pixels.notes, *_missing(kept, classes)),
        fingerprint=hashlib.sha256(json.dumps(identity).encode()).hexdigest(),
        groups={
            domain: _groups([kept[place] for place in places], everywhere)
            for domain, places in sorted(rows.items())
            if kept[places[0]].group
        },
        counted=not pixels.digest,
    )


def _undecoded(name: str, files: Sequence[Path], size: int, options: ImageOptions) -> Decoded:
    """What is known of files that are decoded when they are needed."""
    if options.skip_unreadable:
        raise DataError(
            f"{name}: unreadable images cannot be left out where images are decoded as needed; "
            f"remove them, or decode once."
        )
    if missing := [path for path in files if not path.is_file()]:
        raise DataError(f"{name}: {len(missing):,} images are not there: {listed(missing)}.")
    there = [(path.name, s.st_size, s.st_mtime_ns) for path in files for s in [path.stat()]]
    digest = hashlib.sha256(json.dumps([size, there]).encode()).hexdigest()
    shape = (len(files), 3, size, size)
    images = StandIns(shape) if options.counted else ImageFiles(files, size)
    return Decoded(images, tuple(range(len(files))), (), digest)


def _groups(images: Sequence[LabelledImage], everywhere: bool) -> Groups:
    kinds = {image.group: image.kind for image in images}
    found = Groups.of([image.group for image in images])
    return replace(found, kinds=tuple(kinds.values()), everywhere=everywhere)


def _of_group(image: LabelledImage) -> tuple[str, ...]:
    return (image.group, image.kind) if image.group else ()


def _missing(images: Sequence[LabelledImage], classes: Sequence[str]) -> Iterator[str]:
    present = {(image.domain, image.label) for image in images}
    for domain in sorted({domain for domain, _ in present}):
        absent = [label for label in classes if (domain, label) not in present]
        if absent:
            noun, verb = ("class", "has") if len(absent) == 1 else ("classes", "have")
            yield f"{noun} {listed(absent)} {verb} no image in domain {domain}"


def _distinct(
    value_of: Callable[[LabelledImage], str],
    images: Sequence[LabelledImage],
    name_of: Callable[[LabelledImage], str],
    name: str,
) -> list[str]:
    return sorted({value_of(image) for image in images if name_of(image) == name})


def _domain(image: LabelledImage) -> str:
    return image.domain


def _label(image: LabelledImage) -> str:
    return image.label


def _plural(kind: str) -> str:
    return {"domain": "domains", "class": "classes"}[kind]
