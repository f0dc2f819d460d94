"""Image sets of WILDS (Koh et al., arXiv 2012.07421), through its own package."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from domaingrad.bench.names import UnknownNameError, look_up
from domaingrad.bench.schema import Option, settings

from .data import GROUP, DataError, DomainData, News, Reader
from .labelled import ImageOptions, LabelledImage, check_labelled, read_labelled


@dataclass(frozen=True)
class WildsImages:
    """What has to be known of a set of WILDS beside what its package tells."""

    domain: str
    """Field of the metadata that names the domain unless told otherwise."""
    fields: tuple[str, ...]
    """Fields that may."""
    file: Callable[[Any, int], Path]
    """The file of a sample of the package's data set."""
    about: str
    """Size of the download and licence."""
    classes: tuple[str, ...] = ()
    """Names of the classes, where the package has none."""


def _listed(folder: str) -> Callable[[Any, int], Path]:
    """Of the sets that keep a list of files below a folder."""
    return lambda data, row: Path(data.data_dir) / folder / str(data._input_array[row])


def _numbered(data: Any, row: int) -> Path:
    """Of FMoW, which numbers its files and leaves some numbers out."""
    return Path(data.data_dir) / "images" / f"rgb_img_{data.full_idxs[row]}.png"


WILDS_IMAGES = {
    "camelyon17": WildsImages(
        domain="hospital",
        fields=("hospital", "slide"),
        file=_listed("."),
        about="11 GB, CC0",
        classes=("normal", "tumor"),
    ),
    "fmow": WildsImages(
        domain="region",
        fields=("region", "year"),
        file=_numbered,
        about="54 GB, FMoW Challenge Public License",
    ),
    "iwildcam": WildsImages(
        domain="location",
        fields=("location",),
        file=_listed("train"),
        about="12 GB, CDLA-Permissive-1.0",
    ),
    "rxrx1": WildsImages(
        domain="experiment",
        fields=("experiment", "cell_type"),
        file=_listed("."),
        about="7 GB, CC BY-NC-SA 4.0",
    ),
}
"""The sets that can be read, all of photographs in classes, by WILDS's name."""


@settings
class WildsOptions(ImageOptions):
    """What a reader of WILDS may be told."""

    domain: Annotated[str | None, Option("WILDS: the field of the metadata for domains.")] = None
    group: Annotated[str | None, GROUP] = None


def read_wilds(path: Path, options: WildsOptions, news: News) -> DomainData:
    """A set of WILDS that lies in ``$WILDS_DATA`` or else in ``./data``; nothing is downloaded.

    All samples are taken, whatever WILDS's own split says of them, since domains are held out in
    turn. A domain is called by the name that WILDS has for it, else by its field and number.

    Args:
        path: the name of the set, ``camelyon17`` say.
        options: besides those of images, ``domain`` may name another field of the metadata, and
            ``group`` one of samples that belong together.
        news: hears of the decoding.

    Raises:
        DataError: another set; the package, the data or their files absent; a field that names
            no domain.
    """
    name = str(path)
    try:
        known = look_up("readable image set of WILDS", name, WILDS_IMAGES)
        field = options.domain or known.domain
        look_up(f"domain of {name}", field, dict.fromkeys(known.fields))
    except UnknownNameError as error:
        raise DataError(str(error)) from error
    data = _data_set(name, known)
    column = data.metadata_array[:, data.metadata_fields.index(field)].tolist()
    groups = [""] * len(column)
    if options.group is not None:
        look_up(f"field of {name}", options.group, dict.fromkeys(data.metadata_fields))
        places = data.metadata_array[:, data.metadata_fields.index(options.group)].tolist()
        groups = [str(place) for place in places]
    named = (data.metadata_map or {}).get(field)
    classes = known.classes or tuple(getattr(data, "category_to_idx", ()))
    images = [
        LabelledImage(
            path=known.file(data, row),
            domain=_domain(field, value, named),
            label=classes[label] if classes else str(label),
            group=group,
        )
        for row, (value, label, group) in enumerate(
            zip(column, data.y_array.tolist(), groups, strict=True)
        )
    ]
    check_labelled(images, where=f"{name} of WILDS", least=options.least)
    return read_labelled(name, images, options, news)


def _domain(field: str, value: int, named: Sequence[object] | None) -> str:
    """What a domain is called, by WILDS's names for the values of its field if it has any.

    >>> _domain("year", 1, [2002, 2003]), _domain("year", -1, [2002, 2003])
    ('2003', 'unknown-year')
    >>> _domain("hospital", 3, None)
    'hospital-3'
    """
    if named is None:
        return f"{field}-{value}"
    return str(named[value]) if value >= 0 else f"unknown-{field}"


def _data_set(name: str, known: WildsImages) -> Any:
    """The package's data set, which reads its tables and opens no image."""
    try:
        package = import_module("wilds")
        if not hasattr(package, "get_dataset"):
            # As is a folder of that name beside the program.
            raise ImportError(f"{next(iter(package.__path__))} is another one")
    except ImportError as cause:
        raise DataError(
            f"{name} is read by the package wilds, which cannot be imported ({cause}); "
            f"run `pip install wilds`."
        ) from cause
    root = Path(os.environ.get("WILDS_DATA") or "data")
    by_hand = (
        f"set WILDS_DATA to the folder of your WILDS data, or download {name} ({known.about}): "
        f"python -c \"import wilds; wilds.get_dataset('{name}', root_dir='{root}', download=True)\""
    )
    # The package would make the folder.
    if not root.is_dir():
        raise DataError(f"there is no folder {root.absolute()}; {by_hand}")
    try:
        with _times_of_any_precision():
            return package.get_dataset(dataset=name, root_dir=str(root), download=False)
    except FileNotFoundError as cause:
        raise DataError(f"{name} is not whole in {root.absolute()} ({cause}); {by_hand}") from cause
    # Arrays that pandas 3 gives out cannot be written to, which wilds 2.0 does for rxrx1.
    except ValueError as cause:
        older = "; it needs an older pandas: pip install 'pandas<3'" * ("read-only" in str(cause))
        raise DataError(
            f"the package wilds cannot read {name} in {root.absolute()} ({cause}){older}."
        ) from cause
    except (ImportError, RuntimeError, AttributeError) as cause:
        raise DataError(
            f"the package wilds cannot be used ({cause}); it needs a torchvision of the same build "
            f"as torch, so install both from the same index."
        ) from cause


@contextmanager
def _times_of_any_precision() -> Iterator[None]:
    """Let wilds 2.0 read times with and without fractions, for which pandas 2 takes a format."""
    pd: Any = import_module("pandas")
    plain = pd.to_datetime
    pd.to_datetime = partial(plain, format="ISO8601")
    try:
        yield
    finally:
        pd.to_datetime = plain


WILDS = Reader(
    kind="wilds",
    summary=f"An image set of WILDS by name ({', '.join(WILDS_IMAGES)}), which lies in $WILDS_DATA "
    "or ./data.",
    read=read_wilds,
    options=WildsOptions,
)
