"""Published data sets of images by domain, read as folders and compared with what is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from domaingrad.bench.names import look_up
from domaingrad.bench.protocol import PowerOfTwo

from .data import DataError, DomainData, News, Reader
from .files import listed
from .folder import LAYOUT, FolderImages, FolderOptions, find_images, grouped
from .labelled import read_labelled


@dataclass(frozen=True)
class Preset:
    """A published data set."""

    name: str
    title: str
    """As in the literature."""
    domains: Mapping[str, int | None]
    """Folders, with their numbers of images where those are known."""
    classes: int
    download: str
    """About how much there is to download."""
    licence: str
    source: str
    """Paper, and where to get the data."""
    batch: PowerOfTwo | None = None
    """From what DomainBed's search draws it, if not as for other photographs."""

    def obtained(self) -> str:
        """What someone needs to know who has not got it, in a sentence."""
        return f"{self.title}: {self.source}; to download: {self.download}; licence: {self.licence}"


DOMAINBED = "github.com/facebookresearch/DomainBed (domainbed/scripts/download.py)"

# Counts per domain add up to the totals that DomainBed's paper (arXiv 2007.01434) or, for
# TerraIncognita, later benchmarks give: 9,991, 10,729, 15,588, 24,330 and 586,575 images.
PACS = Preset(
    name="pacs",
    title="PACS",
    domains={"art_painting": 2048, "cartoon": 2344, "photo": 1670, "sketch": 3929},
    classes=7,
    download="0.2 GB",
    licence="none stated, research use",
    source=f"Li et al., arXiv 1710.03077; {DOMAINBED}",
)
VLCS = Preset(
    name="vlcs",
    title="VLCS",
    domains={"Caltech101": 1415, "LabelMe": 2656, "SUN09": 3282, "VOC2007": 3376},
    classes=5,
    download="size not known here",
    licence="none stated, research use",
    source=f"Fang et al., ICCV 2013; {DOMAINBED}",
)
OFFICE_HOME = Preset(
    name="office-home",
    title="Office-Home",
    domains={"Art": 2427, "Clipart": 4365, "Product": 4439, "Real World": 4357},
    classes=65,
    download="1.1 GB",
    licence="non-commercial research and education only",
    source="Venkateswara et al., arXiv 1706.07522; www.hemanthdv.org/officeHomeDataset.html",
)
TERRA_INCOGNITA = Preset(
    name="terra-incognita",
    title="TerraIncognita",
    domains={
        "location_38": 9736,
        "location_43": 3970,
        "location_46": 5883,
        "location_100": 4741,
    },
    classes=10,
    download="6 GB, of which DomainBed's script keeps four locations",
    licence="Community Data License Agreement, permissive",
    source=f"Beery et al., arXiv 1807.04975; lila.science/datasets/caltech-camera-traps, "
    f"sorted into folders by {DOMAINBED}",
)
DOMAIN_NET = Preset(
    name="domain-net",
    title="DomainNet",
    domains={
        "clipart": 48129,
        "infograph": 51605,
        "painting": 72266,
        "quickdraw": 172500,
        "real": 172947,
        "sketch": 69128,
    },
    classes=345,
    download="19 GB",
    licence="non-commercial research and education only",
    source=f"Peng et al., arXiv 1812.01754; ai.bu.edu/M3SDA, its duplicates removed by {DOMAINBED}",
    batch=PowerOfTwo(3, 5),
)
SVIRO = Preset(
    name="sviro",
    title="SVIRO",
    domains=dict.fromkeys(
        ("aclass", "escape", "hilux", "i3", "lexus", "tesla", "tiguan", "tucson", "x5", "zoe")
    ),
    classes=7,
    download="size not known here",
    licence="see sviro.kl.dfki.de",
    source=f"Dias Da Cruz et al., arXiv 2001.03483; sviro.kl.dfki.de, through {DOMAINBED}",
)

PUBLISHED: dict[str, Preset] = {
    preset.name: preset for preset in (PACS, VLCS, OFFICE_HOME, TERRA_INCOGNITA, DOMAIN_NET, SVIRO)
}
"""Every published data set by name."""


def read_preset(name: str) -> Callable[[Path, FolderOptions, News], DomainData]:
    """A function that reads the published data set from its folder.

    It reads as :func:`~.folder.read_folder` does, and raises a ``DataError`` also if the folder
    is absent, with where to get the data, and if domains or classes are missing or too many.
    Numbers of images that differ are noted: a part of a data set is welcome.

    Raises:
        UnknownNameError: a name that is not in ``PUBLISHED``.
    """
    preset = look_up("published data set", name, PUBLISHED)

    def read(path: Path, options: FolderOptions, news: News) -> DomainData:
        if not path.exists():
            raise DataError(
                f"there is no folder {path}; expected {preset.title} as {LAYOUT}. It is not part "
                f"of this package: {preset.obtained()}."
            )
        found = grouped(find_images(path), path, options.group)
        _check(preset, found, path)
        notes = (*found.notes, *_counted(preset, found))
        data = read_labelled(preset.name, found.images, options, news, notes)
        if preset.batch is None:
            return data
        search = {**data.recipe.distributions, "batch": preset.batch}
        return replace(data, recipe=replace(data.recipe, search=search))

    return read


def _check(preset: Preset, found: FolderImages, path: Path) -> None:
    """Say everything in which the folder is not the data set."""
    known = {_bare(domain): domain for domain in preset.domains}
    domains = {_bare(image.domain): image.domain for image in found.images}
    classes = len({image.label for image in found.images})
    differences = []
    if missing := [known[bare] for bare in known if bare not in domains]:
        differences.append(f"domains {listed(missing)} are missing")
    if unknown := [domains[bare] for bare in domains if bare not in known]:
        differences.append(f"domains {listed(unknown)} do not belong to it")
    if classes != preset.classes:
        differences.append(f"it has {preset.classes} classes and there are {classes}")
    if differences:
        raise DataError(
            f"{path} is not {preset.title}: {'; '.join(differences)}. Complete it "
            f"({preset.source}), or read it as a folder without a name."
        )


def _counted(preset: Preset, found: FolderImages) -> Iterator[str]:
    expected = {_bare(domain): count for domain, count in preset.domains.items()}
    counts = Counter(image.domain for image in found.images)
    differing = [
        f"{domain} {count:,} instead of {wanted:,}"
        for domain, count in sorted(counts.items())
        if (wanted := expected[_bare(domain)]) is not None and wanted != count
    ]
    if differing:
        yield f"numbers of images differ from {preset.title} as published: {listed(differing)}"


def _bare(name: str) -> str:
    """Letters and digits alone: copies of a data set spell "Real World" in several ways."""
    return "".join(filter(str.isalnum, name)).lower()


PRESETS: dict[str, Reader] = {
    preset.name: Reader(
        kind=preset.name,
        summary=f"{preset.title}: {len(preset.domains)} domains, {preset.classes} classes, "
        f"in {LAYOUT}.",
        read=read_preset(preset.name),
        options=FolderOptions,
    )
    for preset in PUBLISHED.values()
}
"""A reader of every published data set by name."""
